"""A Redis and a PostgreSQL of one's own, on free ports, to be killed, held and started again."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.machine import Missing, tool
from benchmarks.processes import Failure, free_port

START_SECONDS = 30.0
# What a person who starts it by hand would say; nothing of it is to survive.
REDIS_OPTIONS = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no")


class OwnRedis:
    """A redis-server that keeps everything in memory."""

    def __init__(self, *options: str) -> None:
        """`options` go to redis-server. Raises Missing."""
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._program = _found("redis-server")

    def start(self) -> None:
        """Start at the port of before. Raises Failure."""
        command = [self._program, "--port", str(self.port), *REDIS_OPTIONS, *self._options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as sock:
                sock.sendall(b"PING\r\n")
                if sock.recv(64):  # that it may not be asked without a password is an answer, too
                    return
            time.sleep(0.02)
        raise Failure(f"redis-server does not answer on port {self.port}")

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hold(self) -> None:
        """Let it hang: it accepts connections, and says nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


class OwnPostgres:
    """A PostgreSQL cluster in a folder of its own."""

    def __init__(self) -> None:
        """Make the cluster, without starting it. Raises Missing and Failure."""
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._control = _found("pg_ctl")
        self._folder = Path(tempfile.mkdtemp(prefix="gateway-postgresql-"))
        self._data = self._folder / "data"
        self._of_another = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self._of_another:  # it does not run as root
            shutil.chown(self._folder, "postgres")
        initdb = str(Path(self._control).with_name("initdb"))
        self._do([initdb, "-A", "trust", "-U", "postgres", "--no-sync", "-D", str(self._data)])

    def start(self) -> None:
        """Start at the port of before. Raises Failure."""
        sockets = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        options = f"-p {self.port} {sockets} -c fsync=off"
        self._ctl("start", "-w", "-l", str(self._folder / "log"), "-o", options)

    def stop(self) -> None:
        """End every connection, then the server; nothing that was committed is lost."""
        self._ctl("stop", "-w", "-m", "fast")

    def restart(self) -> None:
        self._ctl("restart", "-w", "-m", "fast", "-l", str(self._folder / "log"))

    def remove(self) -> None:
        with contextlib.suppress(Failure):
            self._ctl("stop", "-w", "-m", "immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ctl(self, *arguments: str) -> None:
        self._do([self._control, "-D", str(self._data), *arguments])

    def _do(self, command: Sequence[str]) -> None:
        # Not into a pipe: the server that is started inherits it, and keeps it open.
        with (self._folder / "control.log").open("wb") as out:
            done = subprocess.run(
                [*self._of_another, *command],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=60,
                check=False,
            )
        if done.returncode:
            told = (self._folder / "control.log").read_text("utf-8", "replace")
            raise Failure(f"{Path(command[0]).name}: {told.strip()[-500:]}")


@contextlib.contextmanager
def own_redis(*options: str) -> Iterator[OwnRedis]:
    """Run a Redis until the block ends. Raises Missing and Failure."""
    redis = OwnRedis(*options)
    try:
        redis.start()
        yield redis
    finally:
        redis.kill()


@contextlib.contextmanager
def own_postgres() -> Iterator[OwnPostgres]:
    """Run a PostgreSQL until the block ends. Raises Missing and Failure."""
    postgres = OwnPostgres()
    try:
        postgres.start()
        yield postgres
    finally:
        postgres.remove()


def _found(name: str) -> str:
    path = tool(name)
    if path is None:
        raise Missing(f"{name}: apt-get install {'redis-server' if name == 'redis-server' else 'postgresql'}")
    return path
