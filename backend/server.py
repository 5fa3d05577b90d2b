"""Running the gateway: one process or several, on Hypercorn or Granian, stopped by signals."""

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError

from backend import http2
from backend.app import create_app
from backend.clients.server import serve as serve_clients
from backend.config import Settings

log = logging.getLogger("gateway.server")

http2.install()

# Clients that connect at the same moment: a thousand users pressing a button, and then some.
BACKLOG = 4096
# Idle connections hold descriptors; closing them early only costs a browser a new handshake.
KEEP_ALIVE_SECONDS = 15.0
# Hypercorn closes a connection after 1,000 requests unless told otherwise, amid a busy client's work.
REQUESTS_PER_CONNECTION = 1_000_000
# Streams of one HTTP/2 connection; long calls of one browser tab or one proxy in front.
HTTP2_STREAMS = 250
# Request heads: a token and the usual headers fit ten times.
HEAD_BYTES = 32 * 1024
# What closing takes after the grace: lifespan, pools, the last log lines.
CLOSING_SECONDS = 5.0
OPEN_FILES = 65_536
# New objects between two looks of the collector; 700 by default, which is one small call. A thousand calls
# in flight hold some 300,000.
YOUNG_OBJECTS = 200_000
LOG_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
# A worker that lives shorter than this did not start; one that keeps dying so stops everything.
START_SECONDS = 5.0
MOST_FAILED_STARTS = 5


class StartError(Exception):
    """The server cannot start; the text is for the person at the terminal."""


def log_to_terminal(settings: Settings) -> None:
    """Log to standard error; libraries that would tell of every call or start only tell of trouble."""
    logging.basicConfig(level=settings.log_level, format=LOG_FORMAT)
    for chatty in ("httpx", "alembic", "hypercorn.error"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def listen(settings: Settings) -> socket.socket:
    """Open the listening socket. Raises StartError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it answers wait 40 ms for an ACK.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit it: a client that vanished without a word is noticed some day.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    try:
        sock.bind((settings.host, settings.port))
    except OSError as exc:
        sock.close()
        reason = exc.strerror or str(exc)
        raise StartError(f"cannot listen on {settings.host} port {settings.port}: {reason}") from exc
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def allow_open_files() -> None:
    """Raise the soft limit of open files: every waiting call holds two sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve(settings: Settings, sock: socket.socket) -> NoReturn:
    """Serve on Hypercorn until a signal says stop; ends the process."""
    allow_open_files()
    if settings.workers == 1:
        leave(_serve_here(settings, sock))
    leave(Supervisor(settings, sock).run())


def leave(code: int) -> NoReturn:
    """End the process without tearing the interpreter down.

    The Rust client's thread may still hold on to the interpreter for a moment after it was closed, and
    an interpreter that finalizes under it aborts (pyreqwest 0.15).
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def calm_collector() -> None:
    """Let the garbage collector look less often: it costs a small call 5 %, and calls make few cycles.

    What exists now, modules and routes, is never looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 50)


def _serve_here(settings: Settings, sock: socket.socket) -> int:
    config = hypercorn_config(settings)
    app = create_app(settings).asgi
    app.signs = True
    calm_collector()
    try:
        with asyncio.Runner(loop_factory=_loop_factory(settings)) as runner:
            runner.run(_until_stopped(app, config, sock, settings.gateway_drain_seconds))
    except LifespanFailureError:
        return 1  # the bridge has logged why
    except Exception:
        log.exception("the server ended")
        return 1
    return 0


def _loop_factory(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not settings.gateway_uvloop:
        return None
    try:
        import uvloop  # not to be had everywhere
    except ImportError:
        return None
    return uvloop.new_event_loop


def hypercorn_config(settings: Settings) -> Config:
    """Return Hypercorn's configuration; each value has its reason at its constant."""
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.backlog = BACKLOG
    config.include_server_header = False
    config.include_date_header = False
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.keep_alive_max_requests = REQUESTS_PER_CONNECTION
    config.h11_max_incomplete_size = HEAD_BYTES
    config.h2_max_concurrent_streams = HTTP2_STREAMS
    config.graceful_timeout = settings.gateway_drain_seconds
    config.shutdown_timeout = CLOSING_SECONDS
    if settings.gateway_tls_cert is not None:
        config.certfile = str(settings.gateway_tls_cert)
        config.keyfile = str(settings.gateway_tls_key)
    return config


async def _until_stopped(app: Any, config: Config, sock: socket.socket, drain_seconds: float) -> None:
    stop = asyncio.Event()
    _on_stop_signal(stop.set)
    serving = asyncio.ensure_future(serve_clients(app, config, sock, stop))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    # Python 3.12 lets a closed server wait for its connections without end: the grace is kept here.
    done, _ = await asyncio.wait(
        {serving}, timeout=drain_seconds + CLOSING_SECONDS if stop.is_set() else None
    )
    if not done:
        log.warning("calls still open after the grace were cut")
        serving.cancel()
        done, _ = await asyncio.wait({serving}, timeout=CLOSING_SECONDS)
    for task in done:
        with contextlib.suppress(asyncio.CancelledError):
            task.result()


def _on_stop_signal(stop: Callable[[], None]) -> None:
    """The first SIGTERM or SIGINT stops, the second ends the process at once."""
    loop = asyncio.get_running_loop()
    signals: list[int] = []

    def received(number: int) -> None:
        signals.append(number)
        if len(signals) > 1:
            os._exit(128 + number)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number)
    parent = multiprocessing.parent_process()
    if parent is not None:  # a worker outlives its supervisor only to finish its calls

        def orphaned() -> None:
            loop.remove_reader(parent.sentinel)
            stop()

        loop.add_reader(parent.sentinel, orphaned)


def _work(settings: Settings, sock: socket.socket) -> None:
    log_to_terminal(settings)
    allow_open_files()
    leave(_serve_here(settings, sock))


class Supervisor:
    """Keeps `settings.workers` worker processes alive on one socket; a dead one is replaced at once."""

    def __init__(self, settings: Settings, sock: socket.socket) -> None:
        self._settings = settings
        self._sock = sock
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[BaseProcess, float] = {}
        self._failed_starts = 0
        self._signals = 0

    def run(self) -> int:
        """Return the exit code once every worker has ended."""
        wake, self._alarm = os.pipe()
        os.set_blocking(self._alarm, False)
        signal.set_wakeup_fd(self._alarm)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._received)
        for _ in range(self._settings.workers):
            self._spawn()
        while self._workers:
            ready = wait([wake, *(worker.sentinel for worker in self._workers)])
            if wake in ready:
                os.read(wake, 64)
            for worker in [w for w in self._workers if not w.is_alive()]:
                self._replace(worker)
        return 1 if self._failed_starts >= MOST_FAILED_STARTS else 0

    def _spawn(self) -> None:
        worker = self._context.Process(target=_work, args=(self._settings, self._sock), name="gateway-worker")
        worker.start()
        self._workers[worker] = time.monotonic()

    def _replace(self, worker: BaseProcess) -> None:
        lived = time.monotonic() - self._workers.pop(worker)
        if self._signals:
            return
        log.warning("worker %s ended with %s after %.1f s", worker.pid, worker.exitcode, lived)
        self._failed_starts = self._failed_starts + 1 if lived < START_SECONDS and worker.exitcode == 1 else 0
        if self._failed_starts >= MOST_FAILED_STARTS:
            log.error("workers do not start: giving up")
            self._stop(signal.SIGTERM)
        else:
            self._spawn()

    def _received(self, number: int, _frame: object) -> None:
        self._stop(number)

    def _stop(self, number: int) -> None:
        """Pass the signal on; from the first on nobody listens any more and nobody is replaced."""
        self._signals += 1
        if self._sock.fileno() >= 0:
            self._sock.close()
        for worker in self._workers:
            if worker.pid is not None and worker.is_alive():
                os.kill(worker.pid, signal.SIGKILL if self._signals > 1 else signal.SIGTERM)
