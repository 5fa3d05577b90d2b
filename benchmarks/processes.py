"""Processes of a run: started on one core, each stopped by the block that started it."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.machine import tool

ROOT = Path(__file__).parents[1]
START_SECONDS = 20.0
STOP_SECONDS = 3.0
# What the log of a process that did not start is good for.
TOLD_LINES = 12


class Failure(Exception):
    """The run cannot go on; the text is for the person at the terminal."""


@dataclass(frozen=True)
class Process:
    """A running process, the leader of a session that holds all its children."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def last_words(self) -> str:
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return "\n".join(lines[-TOLD_LINES:]) or "(it wrote nothing)"


def environment(**settings: str) -> dict[str, str]:
    """Return a child's environment: none of the caller's settings, this project importable."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | settings


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def running(
    name: str,
    command: Sequence[str],
    *,
    core: int | None,
    folder: Path,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """Run a command on one core, or on all for None, until the block ends, however it ends.

    Should this program be killed, the kernel stops the process: setpriv's --pdeathsig.
    """
    log = folder / f"{name}.log"
    pinned = [_path("setpriv"), "--pdeathsig", "TERM"]
    if core is not None:
        pinned += [_path("taskset"), "--cpu-list", str(core)]
    pinned += command
    with log.open("wb") as out:
        popen = subprocess.Popen(
            pinned,
            cwd=folder,  # no .env of the developer's
            env=environment(**(settings or {})),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Process(name, popen, log)
    finally:
        _stop(popen)


def answering(process: Process, url: str, headers: Mapping[str, str] | None = None) -> None:
    """Wait until a URL answers 200. Raises Failure."""
    deadline = time.monotonic() + START_SECONDS
    status: int | None = None
    while time.monotonic() < deadline:
        if process.popen.poll() is not None:
            raise Failure(f"{process.name} ended with {process.popen.returncode}:\n{process.last_words()}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, _ = exchange("GET", url, headers=headers)
            if status == 200:
                return
        time.sleep(0.02)
    raise Failure(f"{process.name} does not answer (status {status}):\n{process.last_words()}")


def exchange(
    method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Make one call on a connection of its own. Raises OSError and http.client.HTTPException."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request(method, parts.path or "/", body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _path(name: str) -> str:
    found = tool(name)
    if found is None:
        raise Failure(f"{name} is not installed")
    return found


def _stop(popen: "subprocess.Popen[bytes]") -> None:
    try:
        popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(STOP_SECONDS)
    finally:  # also when a second Ctrl-C ends the wait; and for children that outlived their leader
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
