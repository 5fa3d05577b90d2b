#!/usr/bin/env python3
"""Shows how long N users wait who all make the same slow call at the same moment.

A gateway that forwards calls one by one needs N x 3 s for N users of a 3 s avatar call; one that forwards
them together needs 3 s. Run it directly, it is no pytest file. It needs `pip install pyreqwest rich`, and
matplotlib for --plot.
"""

import argparse
import asyncio
import getpass
import importlib
import io
import ipaddress
import json
import math
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import DetailedPyreqwestError, PyreqwestError
from pyreqwest.request import StreamRequest
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if sys.platform != "win32":
    import resource

FINE, CALL_FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
DEMO_URL = "http://127.0.0.1:8203"
DEMO_EMAIL, DEMO_PASSWORD = "student@demo.local", "Demo-pass1!"  # public, so for loopback only
MOST_USERS = 20_000  # one client address has about 28,000 local ports towards one server
MOST_STEPS = 50
MOST_SERIAL_CALLS = 1_000
LONGEST_TIMEOUT_SECONDS = 3_600.0
SPARE_FILES = 64  # descriptors for what is no user's socket: files, event loop, terminal
KEPT_BYTES = 1 << 20  # of a body that is looked at; previews are only counted
IDLE_SECONDS = 10.0  # gateways keep idle connections longer, so none closes just when it is used
KINDS_SHOWN = 5
VERDICTS = {
    FINE: "Passed.",
    CALL_FAILED: "Failed: a call failed or took too long.",
    INTERRUPTED: "Stopped early: only what was finished is shown.",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
CHECKS = ("/api/ping", "/api/health", "/api/token_status", "/api/avatar/list", "/api/tts/models")
EXAMPLES = """\
examples:
  the demo on this machine, with its own account:
    python test_async_performance.py
  another gateway, with the password neither in the process list nor in the shell history:
    python test_async_performance.py --base-url https://gateway.example.org \\
        --email me@example.org --password-stdin --users 1,10,100 < password.txt
  a pass/fail gate with reports: nobody may wait longer than 3.6 s for a 3 s call
    python test_async_performance.py --limit-seconds 3.6 --json run.json --markdown run.md --plot run.svg

environment: LOADTEST_EMAIL, LOADTEST_PASSWORD, LOADTEST_TOKEN stand in for --email, --password, --token.
exit codes:  0 every call answered within the limit; 1 a call failed or a step broke the limit;
             2 wrong usage, no connection or no login; 130 stopped with Ctrl-C
"""


class Unusable(Exception):
    """The run cannot start or be reported; the text says what the tester can change."""


# --- What is asked for ---


@dataclass(frozen=True)
class Call:
    """The request that every user makes once."""

    method: str
    path: str
    names_avatar: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


CALLS = {
    "preview": Call("POST", "/api/avatar/preview", names_avatar=True),
    "list": Call("GET", "/api/avatar/list"),
    "start": Call("POST", "/api/avatar/start", names_avatar=True),
    "models": Call("GET", "/api/tts/models"),
}


@dataclass(frozen=True)
class Settings:
    """One run as asked for; e-mail and password are empty when a token was given."""

    base_url: str
    email: str
    password: str = field(repr=False)
    token: str = field(repr=False)
    call: Call
    avatar: str
    users: tuple[int, ...]
    timeout: float
    cold: bool
    serial_calls: int
    limit_seconds: float | None
    json: Path | None
    markdown: Path | None
    plot: Path | None
    quiet: bool
    ask_first: bool

    @property
    def needed_checks(self) -> set[str]:
        """Paths without which the ladder would measure nothing but failures."""
        if self.call not in CALLS.values():
            return set()
        needed = {"/api/token_status", self.call.path}
        if self.call.names_avatar and not self.avatar:
            needed.add("/api/avatar/list")
        return needed & set(CHECKS)

    @property
    def longest_seconds(self) -> float:
        """When the run ends at the latest: login, checks, serial calls and steps take one timeout each."""
        return self.timeout * (1 + len(CHECKS) + self.serial_calls + len(self.users))

    @property
    def reports(self) -> list[Path]:
        return [path for path in (self.json, self.markdown, self.plot) if path is not None]


Account = tuple[str, str, str]  # e-mail, password, token; either the token or the others are empty


def read_settings(argv: Sequence[str] | None, environ: Mapping[str, str]) -> Settings:
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.method and not args.path:
        parser.error("--method goes with --path")
    if args.password_stdin and sys.stdin.isatty():
        parser.error("--password-stdin reads a pipe or a file, where nobody sees the password")
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    may_ask = terminal and not is_loopback(args.base_url)
    email, password, token = read_credentials(args, environ, may_ask)
    asked = {name: value for name, value in vars(args).items() if name in Settings.__dataclass_fields__}
    asked |= {"email": email, "password": password, "token": token, "ask_first": may_ask and not args.yes}
    asked |= {"call": Call(args.method or "GET", args.path) if args.path else CALLS[args.call]}
    return Settings(**asked)


def read_credentials(args: argparse.Namespace, environ: Mapping[str, str], may_ask: bool) -> Account:
    """The command line goes before the environment, and that before the demo account."""
    named = args.email or args.password or args.password_stdin
    token = args.token or ("" if named else environ.get("LOADTEST_TOKEN", ""))
    if token:
        return "", "", token.strip()
    email = args.email or environ.get("LOADTEST_EMAIL", "")
    password = args.password or environ.get("LOADTEST_PASSWORD", "")
    if args.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    if is_loopback(args.base_url) and not (email or password or args.password_stdin):
        return DEMO_EMAIL, DEMO_PASSWORD, ""
    if may_ask:
        email = email or input("E-mail: ").strip()
        password = password or getpass.getpass("Password: ")
    if not (email and password):
        raise Unusable(
            "e-mail or password is missing: give --email with --password or --password-stdin, or --token,"
            " or set LOADTEST_EMAIL with LOADTEST_PASSWORD, or LOADTEST_TOKEN"
        )
    return email, password, ""


def is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure how many users a gateway answers at the same time: each step of a ladder\n"
        "releases N users at once, each makes one call, and the time is compared with N calls in a row.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("gateway and account").add_argument
    add("--base-url", type=http_url, default=DEMO_URL, metavar="URL", help="default %(default)s")
    add("--email", default="", help=f"default on loopback {DEMO_EMAIL}, the demo account")
    add("--password", default="", help="others can see it in the process list; the next one is safer")
    add("--password-stdin", action="store_true", help="read the password from a pipe or a file")
    add("--token", default="", metavar="T", help="skip the login and use this token")
    add = parser.add_argument_group("load").add_argument
    add("--users", type=ladder, default="1,2,5,10,20,50,100,1000", metavar="N,N", help="default %(default)s")
    add("--call", choices=tuple(CALLS), default="preview", help="default preview; start opens sessions")
    add("--avatar", default="", metavar="NAME", help="for preview and start; default the first of the list")
    add("--path", type=absolute_path, metavar="/ANY", help="call this instead, without a body")
    add("--method", choices=METHODS, type=str.upper, help="for --path, default GET")
    add("--timeout", type=seconds, default=60.0, metavar="S", help="limit of one call, default %(default)s")
    add(
        "--serial-calls",
        type=whole_number,
        default=3,
        metavar="N",
        help="to compare with, default %(default)s",
    )
    add("--cold", action="store_true", help="users connect when they call, not before")
    add("--limit-seconds", type=seconds, metavar="S", help="a step that takes longer fails the run")
    add("--yes", action="store_true", help="do not ask before loading a gateway on another machine")
    add = parser.add_argument_group("report").add_argument
    add("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    add("--markdown", type=Path, metavar="FILE", help="write the table as Markdown")
    add("--plot", type=Path, metavar="FILE.svg", help="draw the ladder as SVG; needs matplotlib")
    add("--quiet", action="store_true", help="print the result only, no checks and no progress")
    return parser


def http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise argparse.ArgumentTypeError("expected something like http://127.0.0.1:8203")
    if parts.username is not None or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError("expected scheme, host, port and perhaps a path, nothing else")
    return text.rstrip("/")


def absolute_path(text: str) -> str:
    if not text.startswith("/") or not text.isprintable():
        raise argparse.ArgumentTypeError("expected a path that begins with /")
    return text


def whole_number(text: str, most: int = MOST_SERIAL_CALLS) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {most:,}")
    return int(text)


def ladder(text: str) -> tuple[int, ...]:
    steps = text.split(",")
    if len(steps) > MOST_STEPS:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_STEPS} steps")
    return tuple(whole_number(step.strip(), MOST_USERS) for step in steps)


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= LONGEST_TIMEOUT_SECONDS:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, at most {LONGEST_TIMEOUT_SECONDS:,.0f}")
    return value


# --- What must hold before any load ---


def check_machine(settings: Settings) -> None:
    for path in settings.reports:
        check_writable(path)
    if settings.plot:
        load_figure_class()
    wanted = max(settings.users) + SPARE_FILES
    if (allowed := raise_file_limit(wanted)) < wanted:
        raise Unusable(
            f"{max(settings.users):,} users need {wanted:,} open files but this system allows {allowed:,}:"
            f" raise the hard limit (ulimit -Hn) or ask for at most {max(allowed - SPARE_FILES, 0):,} users"
        )


def raise_file_limit(wanted: int) -> int:
    """Raise the soft limit of open files as far as wanted and allowed; return what is allowed now."""
    if sys.platform == "win32":
        return wanted  # sockets are not counted as files there
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return wanted
    reachable = wanted if hard == unlimited else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    except (OSError, ValueError):
        return soft
    return reachable


def check_writable(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise Unusable(f"cannot write {path}: it is not a plain file")
    part = part_file(path)
    try:
        part.touch()
        part.unlink()
    except OSError as error:
        raise Unusable(f"cannot write {path}: {error.strerror}") from error


def part_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def load_figure_class() -> Any:
    """Imported late: only --plot needs it, and it is slow."""
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise Unusable("--plot needs matplotlib: python -m pip install matplotlib") from error


# --- The gateway under load ---


@dataclass(frozen=True)
class Failure:
    """Why a call failed: status and message of the gateway, or what the connection did."""

    kind: str
    request_id: str = ""

    def __str__(self) -> str:
        return f"{self.kind} (request id {self.request_id})" if self.request_id else self.kind


@dataclass(frozen=True)
class Answer:
    """How one call ended; the body is kept for those that look at it, size counts all of it."""

    seconds: float
    status: int | None = None
    size: int = 0
    body: bytes = field(default=b"", repr=False)
    failure: Failure | None = None


def read_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


class Gateway:
    """The gateway; its users have connections of their own, open before they call unless the run is cold."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token = settings.token
        self._client: Client = make_client(settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def log_in(self) -> None:
        account = {"email": self._settings.email, "password": self._settings.password}
        url = f"{self._settings.base_url}/api/login"
        request = self._client.post(url).body_json(account).build_streamed()
        answer = await self.send(request, time.perf_counter(), keep_body=True)
        if answer.failure:
            raise Unusable(f"no login at {url}: {answer.failure}")
        reply = read_json(answer.body)
        token = reply.get("token") if isinstance(reply, dict) else None
        if not isinstance(token, str) or not token:
            raise Unusable(f"no login at {url}: the answer holds no token")
        self._token = token

    async def connect(self, users: int) -> None:
        """Open a connection for each user, as their browsers did when the page was loaded.

        All ask at once, when no connection is free yet, so that each gets its own.
        """
        requests = [self.prepare(Call("GET", CHECKS[0])) for _ in range(users)]
        await asyncio.gather(*(self.send(request, time.perf_counter()) for request in requests))

    def prepare(self, call: Call, avatar: str = "") -> StreamRequest:
        request = self._client.request(call.method, self._settings.base_url + call.path)
        try:
            request = request.bearer_auth(self._token)
        except ValueError as error:
            raise Unusable("the token holds characters that no header can carry") from error
        return (request.form({"avatar_name": avatar}) if call.names_avatar else request).build_streamed()

    async def send(self, request: StreamRequest, since: float, keep_body: bool = False) -> Answer:
        """Send, read the body to its end, and tell how long that took since the given `perf_counter`."""
        status, size, kept = None, 0, bytearray()
        try:
            async with request as response:
                status = response.status
                while (chunk := await response.body_reader.read_chunk()) is not None:
                    size += len(chunk)
                    if (keep_body or status != HTTPStatus.OK) and len(kept) < KEPT_BYTES:
                        kept += chunk
        except PyreqwestError as error:
            failure: Failure | None = Failure(self._printable(broken_off(error)))
        else:
            failure = None if status == HTTPStatus.OK else self._refused(status, bytes(kept))
        return Answer(time.perf_counter() - since, status, size, bytes(kept), failure)

    def _refused(self, status: int, body: bytes) -> Failure:
        reply = read_json(body)
        reply = reply if isinstance(reply, dict) else {}
        text = reply.get("msg") or (HTTPStatus(status).phrase if status in set(HTTPStatus) else "")
        kind, request_id = f"{status} {text}", str(reply.get("request_id") or "")
        return Failure(self._printable(kind), self._printable(request_id))

    def _printable(self, text: str) -> str:
        """A peer may send anything: echoed secrets, terminal controls and endless texts stop here."""
        for secret in filter(None, (self._token, self._settings.password)):
            text = text.replace(secret, "***")
        return "".join(letter if letter.isprintable() else " " for letter in text[:200])


def make_client(settings: Settings) -> Client:
    builder = ClientBuilder().no_proxy().follow_redirects(False).http1_only().max_connections(None)
    builder = builder.pool_max_idle_per_host(0 if settings.cold else max(settings.users))
    builder = builder.pool_idle_timeout(timedelta(seconds=IDLE_SECONDS))
    return builder.timeout(timedelta(seconds=settings.timeout)).build()


def broken_off(error: PyreqwestError) -> str:
    causes = (error.details["causes"] or []) if isinstance(error, DetailedPyreqwestError) else []
    return f"{type(error).__name__}: {causes[-1]['message'] if causes else error.message}"


# --- The ladder ---


def quickest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """On the gateway's own machine, what the script takes is missing there."""
    try:
        return importlib.import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
    except ImportError:
        return None


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Nearest rank: the smallest of the ascending values that at least `percent` of them do not exceed."""
    if not ordered or not 0 <= percent <= 100:
        raise ValueError("needs at least one value and 0 to 100 percent")
    rank = -(-percent * len(ordered) // 100)  # whole numbers, as 0.55 * 100 is more than 55
    return ordered[max(rank, 1) - 1]


@dataclass(frozen=True)
class Step:
    """What simultaneous calls did; durations are seconds of the successful ones since the common start."""

    users: int
    wall: float
    durations: tuple[float, ...]
    size: int
    failures: tuple[Failure, ...]
    serial_mean: float
    extrapolated: bool

    @classmethod
    def of(cls, answers: Sequence[Answer], serial: Sequence[float]) -> Self:
        return cls(
            users=len(answers),
            wall=max(answer.seconds for answer in answers),
            durations=tuple(sorted(answer.seconds for answer in answers if not answer.failure)),
            size=sum(answer.size for answer in answers),
            failures=tuple(answer.failure for answer in answers if answer.failure),
            serial_mean=sum(serial) / len(serial),
            extrapolated=len(answers) > len(serial),
        )

    @property
    def mean(self) -> float | None:
        return sum(self.durations) / len(self.durations) if self.durations else None

    def at(self, percent: int) -> float | None:
        return percentile(self.durations, percent) if self.durations else None

    @property
    def throughput(self) -> float:
        return len(self.durations) / self.wall

    @property
    def success_percent(self) -> float:
        """Rounded down: one failure in 20,000 must not read as 100."""
        return math.floor(1000 * len(self.durations) / self.users) / 10

    @property
    def serial_seconds(self) -> float:
        return self.users * self.serial_mean

    @property
    def speed_up(self) -> float:
        """Failed calls count for nothing: else a gateway that refuses everybody would be the fastest."""
        return len(self.durations) * self.serial_mean / self.wall

    @property
    def kinds(self) -> list[tuple[Failure, int]]:
        """The first failure of each kind and how often the kind came, most frequent first."""
        first = {failure.kind: failure for failure in reversed(self.failures)}
        counted = Counter(failure.kind for failure in self.failures)
        return [(first[kind], count) for kind, count in counted.most_common()]


@dataclass
class Record:
    """What was measured so far; grows during the run, so that Ctrl-C loses only the step it hits."""

    serial: list[float] = field(default_factory=list)
    serial_failures: list[Failure] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    complete: bool = False

    def too_slow(self, limit: float | None) -> list[Step]:
        return [step for step in self.steps if limit is not None and step.wall > limit]

    def exit_code(self, limit: float | None) -> int:
        if not self.complete:
            return INTERRUPTED
        failed = self.serial_failures or any(step.failures for step in self.steps)
        return CALL_FAILED if failed or self.too_slow(limit) else FINE


Notice = Callable[[Answer], None]
Watch = Callable[[str, int], Notice]


async def run(settings: Settings, record: Record, screen: "Screen") -> None:
    """The whole story: log in, check, measure one after another, then climb."""
    async with Gateway(settings) as gateway:
        if not settings.token:
            await gateway.log_in()
        avatar = await check_endpoints(gateway, settings, screen)
        with screen.progress() as watch:
            requests = [gateway.prepare(settings.call, avatar) for _ in range(settings.serial_calls)]
            await call_in_a_row(gateway, requests, watch("one by one", len(requests)), record)
            for users in settings.users if record.serial else ():
                requests = [gateway.prepare(settings.call, avatar) for _ in range(users)]
                if not settings.cold:
                    await gateway.connect(users)
                answers = await release_together(gateway, requests, watch(f"{users:,} at once", users))
                record.steps.append(Step.of(answers, record.serial))
    record.complete = True


async def check_endpoints(gateway: Gateway, settings: Settings, screen: "Screen") -> str:
    """Call each endpoint once, show the table and return the avatar to ask for."""
    answers = {}
    for path in CHECKS:
        request = gateway.prepare(Call("GET", path))
        answers[path] = await gateway.send(request, time.perf_counter(), keep_body=True)
    screen.show_checks(answers, settings.needed_checks)
    if all(answer.status is None for answer in answers.values()):
        raise Unusable(f"no answer from {settings.base_url}: {answers[CHECKS[0]].failure}")
    for path in CHECKS:
        if path in settings.needed_checks and (failure := answers[path].failure):
            raise Unusable(f"{settings.call} cannot be measured because GET {path} failed: {failure}")
    if not settings.call.names_avatar or settings.avatar:
        return settings.avatar
    return first_avatar(read_json(answers["/api/avatar/list"].body))


def first_avatar(listing: object) -> str:
    """The list is an object keyed by name, or an array of objects with a name."""
    names: list[object] = list(listing) if isinstance(listing, dict) else []
    if isinstance(listing, list):
        names = [item.get("name") for item in listing if isinstance(item, dict)]
    for name in names:
        if isinstance(name, str) and name:
            return name
    raise Unusable("the gateway lists no avatar: name one with --avatar")


async def call_in_a_row(
    gateway: Gateway, requests: Sequence[StreamRequest], notice: Notice, record: Record
) -> None:
    for request in requests:
        answer = await gateway.send(request, time.perf_counter())
        if answer.failure:
            record.serial_failures.append(answer.failure)
        else:
            record.serial.append(answer.seconds)
        notice(answer)


async def release_together(
    gateway: Gateway, requests: Sequence[StreamRequest], notice: Notice
) -> list[Answer]:
    """Let every request wait at one gate, open it, and count each one's time from that moment."""
    gate: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def user(request: StreamRequest) -> Answer:
        answer = await gateway.send(request, await gate)
        notice(answer)
        return answer

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(user(request)) for request in requests]
        await asyncio.sleep(0)  # every task runs once, up to the gate
        gate.set_result(time.perf_counter())
    return [task.result() for task in tasks]


# --- What the tester gets to see ---


@dataclass(frozen=True)
class Column:
    """One figure of a step: its heading on the screen, its key in the JSON report, and how it reads."""

    heading: str
    key: str
    value: Callable[[Step], float | None]
    layout: str = "{:.2f}"

    def cell(self, step: Step) -> str:
        value = self.value(step)
        return "-" if value is None else self.layout.format(value)


COLUMNS = (
    Column("users", "users", lambda step: step.users, "{:,}"),
    Column("wall s", "wall_seconds", lambda step: step.wall),
    Column("mean s", "mean_seconds", lambda step: step.mean),
    Column("p50 s", "p50_seconds", lambda step: step.at(50)),
    Column("p95 s", "p95_seconds", lambda step: step.at(95)),
    Column("p99 s", "p99_seconds", lambda step: step.at(99)),
    Column("max s", "max_seconds", lambda step: step.at(100)),
    Column("req/s", "throughput_per_second", lambda step: step.throughput, "{:,.1f}"),
    Column("ok %", "success_percent", lambda step: step.success_percent, "{:g}"),
    Column("serial s", "serial_seconds", lambda step: step.serial_seconds, "{:,.1f}"),
    Column("speed-up", "speed_up", lambda step: step.speed_up, "{:,.1f}x"),
)


class Screen:
    """The terminal; elsewhere plain lines, with --quiet nothing but the result."""

    def __init__(self, quiet: bool) -> None:
        self._terminal = sys.stdout.isatty()
        self._quiet = quiet
        self._console = Console(width=None if self._terminal else 100, highlight=False, soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        if not self._quiet:
            self._console.print(text, style=style, markup=False)

    def show_checks(self, answers: Mapping[str, Answer], needed: set[str]) -> None:
        table = Table("check", "status", "ms", "result", box=box.SIMPLE)
        for path, answer in answers.items():
            good = Text("ok", "green")
            bad = Text(f"{answer.failure}", "red" if path in needed else "yellow")
            status = "-" if answer.status is None else str(answer.status)
            table.add_row(path, status, f"{answer.seconds * 1000:.0f}", bad if answer.failure else good)
        if not self._quiet:
            self._console.print(table)

    @contextmanager
    def progress(self) -> Iterator[Watch]:
        counts = TextColumn("{task.completed:>5.0f} done {task.fields[failed]:>5} failed")
        columns = (TextColumn("{task.description:>16}"), BarColumn(), counts, TimeElapsedColumn())
        bars = Progress(*columns, console=self._console, disable=self._quiet or not self._terminal)

        def watch(title: str, total: int) -> Notice:
            task, failed, started = bars.add_task(title, total=total, failed=0), 0, time.perf_counter()

            def notice(answer: Answer) -> None:
                nonlocal failed
                failed += answer.failure is not None
                bars.update(task, advance=1, failed=failed)
                if bars.tasks[task].finished and not self._terminal:
                    took = time.perf_counter() - started
                    self.say(f"{title:>16}: {total} done, {failed} failed, {took:.2f} s")

            return notice

        with bars:
            yield watch

    def show_result(self, settings: Settings, record: Record) -> None:
        table = Table(box=box.SIMPLE, padding=(0, 1), collapse_padding=True)
        for column in COLUMNS:
            table.add_column(column.heading, justify="right", no_wrap=True)
        slow = record.too_slow(settings.limit_seconds)
        for step in record.steps:
            table.add_row(*cells(step), style="red" if step.failures or step in slow else "green")
        if record.steps:
            self._console.print(table)
        for line in conclusions(settings, record):
            self._console.print(line, markup=False)


def cells(step: Step) -> list[str]:
    return [column.cell(step) for column in COLUMNS]


def conclusions(settings: Settings, record: Record) -> list[str]:
    lines = []
    if record.steps:
        calls, mean = len(record.serial), record.steps[0].serial_mean
        lines.append(f"One by one: {mean:.2f} s per call, the mean of {calls}.")
        if any(step.extrapolated for step in record.steps):
            lines[0] += f" For more users than that the serial time is extrapolated: users x {mean:.2f} s."
        top = max(record.steps, key=lambda step: step.users)
        done = f"{len(top.durations):,} answered in {top.wall:.2f} s"
        lines.append(f"{top.users:,} at once: {done} instead of {top.serial_seconds:,.1f} s.")
    if record.serial_failures:
        consequence = "" if record.serial else "; the ladder was not started"
        first = record.serial_failures[0]
        lines.append(f"One by one: {len(record.serial_failures)} failed, the first with {first}{consequence}")
    for step in record.steps:
        for failure, count in step.kinds[:KINDS_SHOWN]:
            lines.append(f"{step.users:,} at once: {count:,} x {failure}")
    for step in record.too_slow(settings.limit_seconds):
        limit = f"over the limit of {settings.limit_seconds:g} s"
        lines.append(f"{step.users:,} at once: {step.wall:.2f} s is {limit}")
    return [*lines, VERDICTS[record.exit_code(settings.limit_seconds)]]


def write_reports(settings: Settings, record: Record) -> None:
    if settings.json:
        write_atomically(settings.json, json.dumps(as_json(settings, record), indent=2) + "\n")
    if settings.markdown:
        write_atomically(settings.markdown, as_markdown(settings, record))
    if settings.plot and record.steps:
        write_atomically(settings.plot, as_svg(settings, record))


def write_atomically(path: Path, text: str) -> None:
    part = part_file(path)
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Unusable(f"cannot write {path}: {error.strerror}") from error


def machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "pyreqwest": version("pyreqwest"),
    }


def as_json(settings: Settings, record: Record) -> dict[str, Any]:
    failed = len(record.serial_failures)
    mean = sum(record.serial) / len(record.serial) if record.serial else None
    return {
        "tool": "test_async_performance",
        "version": 1,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "base_url": settings.base_url,
        "call": str(settings.call),
        "limit_seconds": settings.limit_seconds,
        "cold": settings.cold,
        "complete": record.complete,
        "machine": machine(),
        "serial": {"calls": len(record.serial) + failed, "failed": failed, "mean_seconds": mean},
        "steps": [step_as_json(step) for step in record.steps],
    }


def step_as_json(step: Step) -> dict[str, Any]:
    return {
        **{column.key: column.value(step) for column in COLUMNS},
        "serial_extrapolated": step.extrapolated,
        "succeeded": len(step.durations),
        "failed": len(step.failures),
        "bytes": step.size,
        "failures": [{**asdict(failure), "count": count} for failure, count in step.kinds],
    }


def as_markdown(settings: Settings, record: Record) -> str:
    about = ", ".join(f"{name} {value}" for name, value in machine().items())
    headings = [column.heading for column in COLUMNS]
    rows = [headings, ["---:"] * len(headings), *(cells(step) for step in record.steps)]
    return "\n".join([
        f"# {settings.call} by N users at once",
        "",
        f"{settings.base_url}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {about}",
        "",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *(f"- {line}" for line in conclusions(settings, record)),
        "",
    ])  # fmt: skip


def as_svg(settings: Settings, record: Record) -> str:
    svg = io.StringIO()
    draw(settings, record).savefig(svg, format="svg")
    return svg.getvalue()


def draw(settings: Settings, record: Record) -> Any:
    """Two panels: wall time against one by one, and how the waiting is spread."""
    steps = sorted(record.steps, key=lambda step: step.users)
    users = [step.users for step in steps]
    figure = load_figure_class()(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(f"{settings.call}, N users at once")
    wall, spread = figure.subplots(1, 2)
    serial = [step.serial_seconds for step in steps]
    wall.plot(users, serial, "o--", color="0.55", label="one by one (extrapolated)")
    wall.plot(users, [step.wall for step in steps], "o-", color="tab:blue", label="at once (measured)")
    wall.set(title="until the last user is served", yscale="log")
    for percent, colour in ((99, "tab:red"), (95, "tab:orange"), (50, "tab:green")):
        spread.plot(users, [step.at(percent) for step in steps], "o-", color=colour, label=f"p{percent}")
    spread.set(title="how long one user waits", ylim=(0, spread.get_ylim()[1] * 1.05))
    for axes in (wall, spread):
        axes.set(xscale="log", xlabel="users at once", ylabel="seconds")
        axes.set_xticks(users, [f"{count:,}" for count in users])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    record = Record()
    try:
        settings = read_settings(argv, os.environ)
        check_machine(settings)
        screen = Screen(settings.quiet)
        announce(settings, screen)
        try:
            with asyncio.Runner(loop_factory=quickest_loop()) as runner:
                runner.run(run(settings, record, screen))
        finally:
            if record.serial or record.serial_failures:
                screen.show_result(settings, record)
                write_reports(settings, record)
    except Unusable as problem:
        print(f"error: {problem}", file=sys.stderr)
        return UNUSABLE
    except (KeyboardInterrupt, EOFError):
        return INTERRUPTED
    return record.exit_code(settings.limit_seconds)


def announce(settings: Settings, screen: Screen) -> None:
    total = sum(settings.users) + settings.serial_calls
    screen.say(f"{settings.call} at {settings.base_url}", style="bold")
    screen.say(f"{total:,} calls, over in {settings.longest_seconds / 60:,.1f} minutes at the latest")
    if settings.ask_first and input("Load this gateway? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise Unusable("nothing was sent")


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: pyreqwest 0.15.1 has a thread at work for a moment after close(); when that one lets
    # go of the GIL in an interpreter that finalizes, the process aborts and the exit code is lost.
    os._exit(exit_code)
