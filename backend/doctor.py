"""`flask --app run:flask_app doctor`, `config show`, `selftest`: what one asks before asking others."""

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import click
from flask import Flask, current_app
from flask.cli import AppGroup
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from backend.config import Settings, export, sources
from backend.services.database import Database
from backend.services.diagnosis import Finding, findings

ROOT = Path(__file__).parents[1]
SIGNS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "fault": "[red]FAULT[/]"}
# The self-test's slow call, and how many users make it at the same moment.
SLOW_SECONDS = 1.0
USERS = 10
START_SECONDS = 60.0
ACCOUNT = {"email": "student@demo.local", "password": "Demo-pass1!"}

config = AppGroup("config", help="The settings of this gateway.")


class Gateway(Protocol):
    """What the commands need of `app.extensions["gateway"]`, all of it before the lifespan has begun."""

    @property
    def settings(self) -> Settings: ...

    @property
    def database(self) -> Database: ...


def register(app: Flask) -> None:
    app.cli.add_command(doctor)
    app.cli.add_command(config)
    app.cli.add_command(selftest)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def doctor(as_json: bool) -> None:
    """Look for what keeps the gateway from working well; exit code 1 when there is a fault.

    Settings that are wrong in themselves stop this command, as they stop the gateway, with every one named.
    """
    gateway = _gateway()
    found = findings(gateway.settings, gateway.database)
    if as_json:
        rows = [{"what": f.what, "state": f.state, "told": f.told, "remedy": f.remedy} for f in found]
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        _show(found)
    sys.exit(1 if any(finding.state == "fault" for finding in found) else 0)


def _show(found: list[Finding]) -> None:
    table = Table("what", "state", "", box=None, pad_edge=False)
    for finding in found:
        told = finding.told + (f"\n→ {finding.remedy}" if finding.remedy else "")
        table.add_row(finding.what, SIGNS[finding.state], told)
    console = Console()
    console.print(table)
    faults = sum(finding.state == "fault" for finding in found)
    warnings = sum(finding.state == "warning" for finding in found)
    console.print(f"\n{len(found)} looked at: {faults} faults, {warnings} warnings.")


@config.command()
@click.option("--diff", is_flag=True, help="Only what differs from its default.")
def show(diff: bool) -> None:
    """Print every setting with its value, where that comes from, and its default. Secrets are not shown."""
    settings, origins = _gateway().settings, sources()
    table = Table("setting", "value", "from", "default", box=None, pad_edge=False)
    for field, about in Settings.model_fields.items():
        value = getattr(settings, field)
        if not diff or value != about.default:
            origin = origins[field.upper()]
            told = "command line" if origin == "default" and value != about.default else origin
            table.add_row(field.upper(), _spelled(value), told, _spelled(about.default))
    Console(soft_wrap=True).print(table)


def _spelled(value: Any) -> str:
    if value is None or value == ():
        return "unset"
    if isinstance(value, SecretStr):
        return "(secret)"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command()
def selftest() -> None:
    """Start a gateway with its demo on free ports, use it as a browser would, and tell what was seen."""
    console = Console()
    failed = False
    with TemporaryDirectory() as folder, _demo(Path(folder)) as url:
        for what, look in (
            ("start and health", _healthy),
            ("sign-in and avatar list", _listed),
            (f"{USERS} users of a {SLOW_SECONDS:g} s call at the same moment", _together),
            ("a wrong token is refused", _refused),
        ):
            began = time.perf_counter()
            try:
                told = look(url)
            except (AssertionError, OSError, http.client.HTTPException, ValueError, KeyError) as exc:
                failed, told = True, f"failed: {exc}"
                sign = "fault"
            else:
                sign = "ok"
            console.print(f"{SIGNS[sign]}  {what}: {told} ({time.perf_counter() - began:.2f} s)")
    sys.exit(1 if failed else 0)


@contextmanager
def _demo(folder: Path) -> Iterator[str]:
    export({"GATEWAY_INSTANCE_DIR": str(folder)})
    options = ["--demo", "--host=127.0.0.1", "--port=0", f"--demo-latency={SLOW_SECONDS}"]
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
        [sys.executable, str(ROOT / "run.py"), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield _announced(process)
    finally:
        process.terminate()
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _announced(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    for line in process.stdout:
        if match := re.search(r"avatar gateway on (https?://[^\s,]+)", line):
            return match[1]
    raise click.ClickException("The gateway did not start: run `python run.py --demo` to see why.")


def _healthy(url: str) -> str:
    status, content = _call(url, "GET", "/api/ping")
    return _expect(status == 200 and content == b"pong", "answers")


def _listed(url: str) -> str:
    status, content = _call(url, "GET", "/api/avatar/list", token=_token(url))
    return _expect(status == 200, f"{len(json.loads(content))} avatars")


def _together(url: str) -> str:
    token = _token(url)
    name = next(iter(json.loads(_call(url, "GET", "/api/avatar/list", token=token)[1])))
    form = urlencode({"avatar_name": name})
    began = time.perf_counter()
    with ThreadPoolExecutor(USERS) as threads:
        statuses = list(
            threads.map(lambda _: _call(url, "POST", "/api/avatar/preview", form, token)[0], range(USERS))
        )
    seconds = time.perf_counter() - began
    answered = statuses.count(200)
    return _expect(
        answered == USERS and seconds < USERS * SLOW_SECONDS / 2,
        f"all answered after {seconds:.2f} s, one by one it would be {USERS * SLOW_SECONDS:.0f} s",
        f"{answered} of {USERS} answered after {seconds:.2f} s",
    )


def _refused(url: str) -> str:
    status, _ = _call(url, "GET", "/api/avatar/list", token=_token(url)[:-4] + "AAAA")
    return _expect(status == 401, "401", f"status {status}")


def _expect(held: bool, told: str, instead: str = "") -> str:
    if not held:
        raise AssertionError(instead or f"not so: {told}")
    return told


def _token(url: str) -> str:
    _, content = _call(url, "POST", "/api/login", json.dumps(ACCOUNT))
    return str(json.loads(content)["token"])


def _call(url: str, method: str, path: str, body: str | None = None, token: str = "") -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=START_SECONDS)
    kind = "application/json" if body and body.startswith("{") else "application/x-www-form-urlencoded"
    headers = {"Content-Type": kind} if body else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _gateway() -> Gateway:
    found: Gateway = current_app.extensions["gateway"]
    return found
