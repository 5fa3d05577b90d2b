"""Running the gateway: one process or several, on Hypercorn or Granian, stopped by signals."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from hypercorn.config import Config
from hypercorn.utils import LifespanFailureError

from backend import allocator, http2
from backend.app import create_app
from backend.clients.server import serve as serve_clients
from backend.config import Settings
from backend.services import logs, sockets
from backend.supervisor import StopSignals, Supervisor, follow, leave, shared_folder

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
# A TLS handshake is a few packets; one that never ends holds a descriptor.
HANDSHAKE_SECONDS = 15.0
# What closing takes after the grace: lifespan, pools, the last log lines.
CLOSING_SECONDS = 5.0
OPEN_FILES = 65_536
# New objects between two looks of the collector; 700 by default, which is one small call. Each look takes
# about half a microsecond an object, during which nobody is served.
YOUNG_OBJECTS = 50_000
# Looks at the young between two at those that survived: a thousand calls in flight hold some 300,000 objects.
YOUNG_LOOKS = 80


class StartError(Exception):
    """The server cannot start; the text is for the person at the terminal."""


def log_to_terminal(settings: Settings) -> None:
    """Log to standard error, by a thread of its own."""
    logs.install(settings.log_level, settings.gateway_log_format, settings.secrets)


def listen(settings: Settings) -> socket.socket:
    """Open the listening socket. Raises StartError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it answers wait 40 ms for an ACK.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sockets.tune(sock, sockets.OF_CLIENTS)
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
    with shared_folder(settings) as shared:
        code = Supervisor(shared, sock, _work, closing_seconds=CLOSING_SECONDS).run()
    leave(code)


def settle_memory() -> None:
    """Let threads share their memory, and the garbage collector look less often: calls make few cycles.

    Looking costs a small call 5 %. What exists now, modules and routes, is never looked at again.
    """
    allocator.few_arenas()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_LOOKS, 50)


def _serve_here(settings: Settings, sock: socket.socket, pulse: Connection | None = None) -> int:
    """Serve in this process; a worker tells its supervisor over `pulse` that it is alive."""
    config = hypercorn_config(settings)
    app = create_app(settings).asgi
    app.signs = True
    settle_memory()
    try:
        with asyncio.Runner(loop_factory=_loop_factory(settings)) as runner:
            if pulse is not None:
                runner.get_loop().call_soon(follow, pulse, settings, CLOSING_SECONDS, app.stopping)
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
    config.h2_max_header_list_size = HEAD_BYTES
    config.ssl_handshake_timeout = HANDSHAKE_SECONDS
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
    """The first signal stops, the second ends the process at once."""
    loop = asyncio.get_running_loop()
    signals = StopSignals()

    def received(number: int) -> None:
        signals.receive(number)
        if signals.at_once is not None:
            os._exit(signals.at_once)
        stop()

    for number in signals.heard():
        loop.add_signal_handler(number, received, number)


def _work(settings: Settings, sock: socket.socket, pulse: Connection) -> None:
    log_to_terminal(settings)
    allow_open_files()
    leave(_serve_here(settings, sock, pulse))
