"""`python -m benchmarks.soak`: does a gateway grow while it works?

Three kinds of work, each in two equal halves: small calls; large bodies up and down; and a mix of both with
downloads that are left half-way. Memory, open files and threads are read when each half has ended and nothing
is under way.
"""

import argparse
import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from benchmarks import command, gateway, nginx, report, upstream, usage
from benchmarks.calls import Address, Connection
from benchmarks.machine import reserved
from benchmarks.processes import Failure
from benchmarks.stream import Line, head

KINDS = ("small", "large", "mixed")
VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "pyreqwest")
USERS = 16
# Of a caller's calls, every so many is followed by a large body up, one down, and one left half-way.
LARGE_EVERY = 50
MOST_GROWTH = 1.05
# Above what was there before: bodies pass through, they are not kept.
MOST_PEAK_MB = 64.0
# The upstream pool may still open another connection while it grows to what its users need.
SPARE_FILES = 4
# Threads are started when they are first needed, and stay.
SPARE_THREADS = 4
# Idle connections to upstreams are closed after so long: those that a busy moment opened are no leak, and are
# gone when the files are counted.
KEEPALIVE_SECONDS = 2.0
SETTLE_SECONDS = 2 * KEEPALIVE_SECONDS
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class State:
    """What a gateway held at one moment; `peak_mb` is the most since the moment before."""

    calls: int
    resident_mb: float
    open_files: int
    threads: int = 0
    peak_mb: float = 0.0


@dataclass(frozen=True)
class Soaked:
    """A gateway at its start, at the half and at the end of one kind of work."""

    server: str
    start: State
    half: State
    end: State
    kind: str = "mixed"

    @property
    def peak_mb(self) -> float:
        """How far above the start a body in transit brought it."""
        return max(0.0, max(self.half.peak_mb, self.end.peak_mb) - self.start.resident_mb)

    @property
    def verdict(self) -> str:
        grown = self.end.resident_mb > self.half.resident_mb * MOST_GROWTH
        files = self.end.open_files > self.half.open_files + SPARE_FILES
        threads = self.end.threads > self.half.threads + SPARE_THREADS
        held = self.kind == "large" and self.peak_mb > MOST_PEAK_MB
        return "short" if grown or files or threads or held else "ok"


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.soak", "Look for growth: of memory, open files and threads.")
    parser.add_argument(
        "--calls",
        type=command.whole(100, 100_000_000),
        default=10_000,
        metavar="N",
        help="small ones; as many in the mix, at most",
    )
    parser.add_argument(
        "--bodies",
        type=command.whole(2, 100_000),
        default=4,
        metavar="N",
        help="large ones each way, of 256 MiB",
    )
    parser.add_argument(
        "--seconds", type=command.between(1, 86_400), default=20.0, metavar="S", help="of the mix, at most"
    )
    parser.add_argument("--only", choices=KINDS, help="this kind of work alone")
    parser.add_argument("--server", choices=gateway.SERVERS, help="this one alone")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    cores, machine = reserved(VERSIONS, ("nginx",))
    account = gateway.Account.made(folder)
    soaked = []
    with nginx.files(folder, cores.load) as files, upstream.served(folder, cores.load) as sink:
        kinds = [asked.only] if asked.only else KINDS
        for server, kind in itertools.product([asked.server] if asked.server else gateway.SERVERS, kinds):
            report.progress(f"gateway on {server}: {kind}")
            settings = {"UPSTREAM_KEEPALIVE_SECONDS": str(KEEPALIVE_SECONDS)}
            with gateway.served(server, account, folder, cores.measured, files, sink, **settings) as served:
                soaked.append(measured(server, kind, served, asked, folder))
    table = _table(soaked)
    notes = [
        f"{USERS} callers of small calls; large bodies have 256 MiB each and follow one another. At the end, "
        f"memory may be {MOST_GROWTH - 1:.0%} above that of the half, and {SPARE_FILES} files and "
        f"{SPARE_THREADS} threads more may be there; a large body may hold {MOST_PEAK_MB:g} MB. Of several "
        "processes the memory of the largest is shown."
    ]
    report.show(machine, [table], notes)
    report.save(asked.markdown, report.markdown(machine, [table], notes))
    report.save(asked.json, {"machine": machine, "soaked": [asdict(one) for one in soaked]})
    return command.SHORT if any(one.verdict == "short" for one in soaked) else command.FINE


def measured(
    server: str, kind: str, served: gateway.Served, asked: argparse.Namespace, folder: Path
) -> Soaked:
    """Work on a gateway for two halves. Raises Failure when a call fails."""
    work = Work(served, _address(served.url))
    states = [_state(served, 0)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for _ in range(2):
            usage.forget_peak(served.process)
            if kind == "large":
                work.calls += transferred(served, folder, asked.bodies // 2)
            elif kind == "small":
                runner.run(work.half(math.inf, asked.calls // 2, large_every=None))
            else:
                runner.run(work.half(asked.seconds / 2, asked.calls // 2))
            time.sleep(SETTLE_SECONDS)
            states.append(_state(served, work.calls))
    start, half, end = states
    return Soaked(server, start, half, end, kind)


def transferred(served: gateway.Served, folder: Path, bodies: int) -> int:
    """Move so many large bodies up, and as many down. Raises Failure."""
    with Line(served.url, served.headers) as line:
        for _ in range(bodies):
            line.upload(gateway.SINK, folder / "files" / "file")
            if line.download(f"{gateway.FILES}/file").size != nginx.FILE_BYTES:
                raise Failure("a download was not whole")
    return 2 * bodies


class Work:
    """The callers of one gateway; `calls` is what was answered so far."""

    def __init__(self, served: gateway.Served, address: Address) -> None:
        self._address = address
        authority = f"{address[0]}:{address[1]}"
        self._small = head("GET", f"{gateway.FILES}/small", authority, served.headers)
        self._down = head("GET", f"{gateway.FILES}/piece", authority, served.headers)
        up = head("POST", gateway.SINK, authority, served.headers, nginx.PIECE_BYTES)
        self._up = up + bytes(nginx.PIECE_BYTES)
        self.calls = 0

    async def half(self, seconds: float, calls: int, large_every: int | None = LARGE_EVERY) -> None:
        """Work for so long, or for so many calls, whichever is less; leaves no connection open."""
        until = time.monotonic() + seconds
        budget = itertools.repeat(None, calls)

        def goes_on() -> bool:
            return time.monotonic() < until and next(budget, self) is None

        results = await asyncio.gather(
            *(self._caller(number, goes_on, large_every) for number in range(USERS)), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _caller(self, number: int, goes_on: Callable[[], bool], large_every: int | None) -> None:
        large = itertools.cycle((self._sent(self._up), self._sent(self._down), self._left))
        connection = await Connection.opened(self._address)
        try:
            turn = number  # callers take their large bodies at different times
            while goes_on():
                await connection.call(self._small)
                self.calls += 1
                turn += 1
                if large_every is not None and turn % large_every == 0 and goes_on():
                    await next(large)(connection)
                    self.calls += 1
        finally:
            connection.close()

    def _sent(self, request: bytes) -> Callable[[Connection], Awaitable[None]]:
        return lambda connection: connection.call(request)

    async def _left(self, _: Connection) -> None:
        """Begin a download on a connection of its own, and go."""
        connection = await Connection.opened(self._address)
        try:
            connection.send(self._down)
            await connection.begun()
        finally:
            connection.close()


def _address(url: str) -> Address:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


def _state(served: gateway.Served, calls: int) -> State:
    process = served.process
    return State(
        calls,
        usage.largest_resident_bytes(process) / MEGABYTE,
        usage.open_files(process),
        usage.threads(process),
        usage.largest_peak_bytes(process) / MEGABYTE,
    )


def _table(soaked: Sequence[Soaked]) -> report.Table:
    rows = []
    for one in soaked:
        grown = one.end.resident_mb / one.half.resident_mb - 1
        for name, state in (("start", one.start), ("half", one.half), ("end", one.end)):
            last = name == "end"
            rows.append(
                (
                    one.server,
                    one.kind,
                    name,
                    f"{state.calls:,}",
                    f"{state.resident_mb:.1f} MB",
                    f"{grown:+.1%}" if last else "",
                    f"+{one.peak_mb:.0f} MB" if last else "",
                    str(state.open_files),
                    str(state.threads),
                    one.verdict if last else "",
                )
            )
    columns = (
        "server",
        "work",
        "at the",
        "calls",
        "resident",
        "since the half",
        "peak over start",
        "open files",
        "threads",
        "",
    )
    return report.Table("Growth", columns, tuple(rows), left=3)


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
