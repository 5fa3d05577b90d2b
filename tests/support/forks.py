"""`run.py` without its imports: forked off a process that has made them, with everything else as if started.

Imports are two thirds of a start's work, and a suite starts hundreds. Whoever tests the start itself, or what
happens before Python runs (LD_PRELOAD), starts it anew.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.support.spare import Spare

ROOT = Path(__file__).parents[2]
MOST_BYTES = 256 * 1024
WIDTH = 8  # of the numbers between the processes
# What Python and the loader read before a line of the program runs: it cannot be given later.
AT_START = (
    "LD_PRELOAD",
    "PYTHONWARNINGS",
    "PYTHONHASHSEED",
    "PYTHONMALLOC",
    "PYTHONPATH",
    "PYTHONASYNCIODEBUG",
)


class Forked:
    """A process that another one forked: as much of `subprocess.Popen` as tests use."""

    def __init__(self, line: socket.socket, stdout: IO[str], args: Sequence[str]) -> None:
        self._line = line
        self.pid = _number(line)
        self.stdout = stdout
        self.args = list(args)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, negative for a signal. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            poll = select.poll()  # and not select, which knows no number beyond 1,023
            poll.register(self._line, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(_number(self._line))
            self._line.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _number(line: socket.socket) -> int:
    return int(line.recv(WIDTH, socket.MSG_WAITALL))


def _numeral(number: int) -> bytes:
    return b"%*d" % (WIDTH, number)


def completed(
    arguments: Sequence[str], env: Mapping[str, str], folder: Path, seconds: float = 60
) -> "subprocess.CompletedProcess[str]":
    """Run `run.py` in a folder until it ends by itself; return all that it said."""
    with tempfile.TemporaryFile("w+") as err:
        process = forked(arguments, env, err, folder)
        with process.stdout:
            code = process.wait(seconds)
            said = process.stdout.read()
        err.seek(0)
        return subprocess.CompletedProcess(process.args, code, said, err.read())


def forked(arguments: Sequence[str], env: Mapping[str, str], stderr: IO[str], folder: Path = ROOT) -> Forked:
    """Run `run.py` with these arguments and this environment; its stdout is a pipe."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.connect(_origin())
    out, into = os.pipe()
    order = json.dumps({"arguments": list(arguments), "env": dict(env), "folder": str(folder)}).encode()
    assert len(order) < MOST_BYTES
    try:
        socket.send_fds(line, [_numeral(len(order))], [into, stderr.fileno()])
        line.sendall(order)
    finally:
        os.close(into)
    return Forked(line, os.fdopen(out, "r"), ["run.py", *arguments])


def can_fork(env: Mapping[str, str]) -> bool:
    """Whether a fork serves for this environment."""
    return all(env.get(name) == _environment().get(name) for name in AT_START)


@cache
def _environment() -> Mapping[str, str]:
    return dict(os.environ) | {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "default"}


@cache
def _origin() -> str:
    """Start the process that the others are forked off; return where it listens. It ends with this one."""
    folder = tempfile.TemporaryDirectory(prefix="forks-")
    atexit.register(folder.cleanup)
    address = f"{folder.name}/line"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forks", address],
        cwd=ROOT,
        env=dict(_environment()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    atexit.register(process.wait)
    atexit.register(process.stdin.close)
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return address


def main(address: str) -> None:
    """Fork whenever somebody asks, until stdin ends; tell everybody how theirs ended."""
    import backend.granian_server  # noqa: F401 - what forks need
    import run

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    wake, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.set_wakeup_fd(alarm)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    lines: dict[int, socket.socket] = {}
    while True:
        ready = select.select([listener, wake, 0], [], [])[0]
        if 0 in ready:
            listener.close()
            return
        if wake in ready:
            os.read(wake, 64)
            _bury(lines)
        if listener in ready:
            line, _ = listener.accept()
            order, files = _order(line)
            pid = os.fork()
            if pid == 0:
                for each in (listener, line, *lines.values()):
                    each.close()
                _settle(order, files, (wake, alarm))
                sys.modules["__main__"] = run  # which worker processes import
                if _has_workers(order):
                    Spare().stand_in()
                run.main(order["arguments"])
            for number in files:
                os.close(number)
            lines[pid] = line
            line.sendall(_numeral(pid))


def _bury(lines: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with lines.pop(ended[0]) as line, contextlib.suppress(OSError):
                line.sendall(_numeral(ended[1]))


def _order(line: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, files, _, _ = socket.recv_fds(line, WIDTH, 2)
    return json.loads(line.recv(int(head), socket.MSG_WAITALL)), files


def _has_workers(order: Mapping[str, Any]) -> bool:
    asked = [each.removeprefix("--workers=") for each in order["arguments"] if each.startswith("--workers=")]
    return [*asked, order["env"].get("WORKERS", "1")][0] != "1" or "granian" in str(order)


def _settle(order: Mapping[str, Any], files: Sequence[int], own: Sequence[int]) -> None:
    """Be as a process is that was just started."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in own:
        os.close(number)
    out, err = files
    for number, at in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
        os.dup2(number, at)
        os.close(number)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["folder"])


if __name__ == "__main__":
    main(sys.argv[1])
