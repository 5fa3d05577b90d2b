"""A process in reserve: forked before anything began, it becomes the one that all workers are forked off.

`multiprocessing` starts that one as a new Python with the same imports. Here they are made already; all else,
its place under its parent, files, environment and blocked signals, is as it would be.
"""

import fcntl
import json
import multiprocessing.util
import os
import signal
import socket
from collections.abc import Sequence
from typing import NoReturn

MOST_BYTES = 256 * 1024
MOST_FILES = 16
# Numbers from here on are nobody's yet.
FREE_FROM = 200


class Spare:
    """Waits; `spawn` stands in for multiprocessing.util.spawnv_passfds, and serves once."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            _wait(theirs)
        theirs.close()
        # As a number: where nobody asks for workers, it is open until the end, and nothing to warn of.
        self._line: int | None = ours.detach()

    def stand_in(self) -> None:
        self._start_anew = multiprocessing.util.spawnv_passfds  # type: ignore[attr-defined]
        multiprocessing.util.spawnv_passfds = self.spawn  # type: ignore[attr-defined]

    def spawn(self, path: bytes, arguments: Sequence[str], files: Sequence[int]) -> int:
        """Become what the arguments say, where that comes of `multiprocessing.forkserver`; return the pid."""
        code = arguments[-1]
        if self._line is None or "forkserver" not in code:
            return int(self._start_anew(path, arguments, files))
        line, self._line = self._line, None
        blocked = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
        order = {"code": code, "files": list(files), "env": dict(os.environ), "blocked": blocked}
        with socket.socket(fileno=line) as opened:
            socket.send_fds(opened, [json.dumps(order).encode()], list(files))
        return self._pid


def _wait(line: socket.socket) -> NoReturn:
    words, received, _, _ = socket.recv_fds(line, MOST_BYTES, MOST_FILES)
    while words and (more := line.recv(MOST_BYTES)):
        words += more
    line.close()
    if not words:
        os._exit(0)
    order = json.loads(words)
    aside = [fcntl.fcntl(number, fcntl.F_DUPFD, FREE_FROM) for number in received]
    for number in received:
        os.close(number)
    for number, wanted in zip(aside, order["files"], strict=True):
        os.dup2(number, wanted)
        os.close(number)
    os.environ.clear()
    os.environ.update(order["env"])
    signal.pthread_sigmask(signal.SIG_SETMASK, order["blocked"])
    exec(order["code"], {"__name__": "__main__"})  # noqa: S102 - what Python itself would be started with
    os._exit(0)
