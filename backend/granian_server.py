"""Running the gateway on Granian, the other server."""

import asyncio
import logging
import os
import signal
import socket
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels
from granian.net import SocketHolder  # type: ignore[attr-defined]  # not said to be exported

from backend.app import create_app
from backend.config import Settings
from backend.server import (
    BACKLOG,
    HEAD_BYTES,
    HTTP2_STREAMS,
    KEEP_ALIVE_SECONDS,
    allow_open_files,
    log_to_terminal,
    settle_memory,
)
from backend.supervisor import Supervisor, follow, leave, shared_folder

# Granian reads the head and the first of the body into one buffer.
READ_BUFFER_BYTES = 256 * 1024
# A worker that waits for hanging calls waits without end: it is ended soon after the grace.
CLOSING_SECONDS = 1.0
# What closing WebSockets may take: their clients have two seconds to answer.
SOCKET_SECONDS = 3.0
# A silent HTTP/2 connection is asked for a sign of life; without one it ends 20 s later, Granian's default.
PING_SECONDS = 15.0


class _OneWorker(Granian):  # type: ignore[misc, valid-type]  # Granian chooses its class when imported
    """A Granian without a supervisor of its own: its one worker is this process, on a given socket.

    Granian's own (2.8) opens a socket for each worker, and with a dead worker go the connections that wait
    in its queue; a worker that dies twice within 5.5 s ends the whole server; workers outlive a main process
    that was killed, and hold the port; and the grace counts in whole seconds.
    """

    _sso = None

    def work(self, sock: socket.socket, application: Any) -> None:
        """Serve until a signal says stop; `application` is called once the loop is there."""
        # Detached: Granian closes it when it stops, long before Python would.
        self._shd = SocketHolder(sock.detach(), False, BACKLOG)  # type: ignore[call-arg]  # its stub has two
        self._spawn_worker(0, self._spawn_asgi_lifespan_worker, application).inner.run()


def serve(settings: Settings, sock: socket.socket) -> NoReturn:
    """Serve on Granian until a signal says stop; ends the process."""
    allow_open_files()
    with shared_folder(settings) as shared:
        code = Supervisor(shared, sock, _work, closing_seconds=CLOSING_SECONDS).run()
    leave(code)


def _work(settings: Settings, sock: socket.socket, pulse: Connection) -> None:
    log_to_terminal(settings)
    allow_open_files()
    bridge = create_app(settings).asgi
    bridge.signs = True  # Granian lets an application sign, and signs where none did
    bridge.answers_leavers = True  # and says 500 where an application said nothing
    settle_memory()

    def application() -> Any:
        follow(pulse, settings, CLOSING_SECONDS, bridge.stopping)
        asyncio.get_event_loop().call_soon(_close_sockets_first, bridge)
        return bridge

    try:
        _granian(settings).work(sock, application)
    except SystemExit as end:  # the lifespan did not begin; the bridge has logged why
        leave(1 if end.code else 0)
    except Exception:
        logging.getLogger("gateway.server").exception("the server ended")
        leave(1)
    leave(0)


def _close_sockets_first(bridge: Any) -> None:
    """Have WebSockets closed before Granian stops: it would drop them where they stand.

    Granian stops by SIGTERM and by SIGINT. The first, a supervisor's, is answered here, and then passed on
    as the second, which workers are not sent otherwise.
    """
    loop = asyncio.get_running_loop()
    stops: list[asyncio.Task[None]] = []

    async def stop() -> None:
        await bridge.close_sockets(SOCKET_SECONDS)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.kill(os.getpid(), signal.SIGINT)

    loop.add_signal_handler(signal.SIGTERM, lambda: stops.append(loop.create_task(stop())))


def _granian(settings: Settings) -> _OneWorker:
    return _OneWorker(
        "run:app",
        interface=Interfaces.ASGI,
        loop=Loops.auto if settings.gateway_uvloop else Loops.asyncio,
        http=HTTPModes.auto,
        # The one that Granian chooses for ASGI where it supervises.
        runtime_mode=RuntimeModes.mt,
        websockets=True,
        backlog=BACKLOG,
        # Calls at once in a worker; beyond, Granian stops accepting.
        backpressure=BACKLOG * 4,
        http1_settings=HTTP1Settings(
            # Also how long a kept connection may be idle: the next head is awaited from the last answer on.
            header_read_timeout=int(KEEP_ALIVE_SECONDS * 1000),
            max_buffer_size=READ_BUFFER_BYTES,
        ),
        http2_settings=HTTP2Settings(
            keep_alive_interval=int(PING_SECONDS * 1000),
            max_concurrent_streams=HTTP2_STREAMS,
            max_headers_size=HEAD_BYTES,
        ),
        log_level=LogLevels.warning,
        ssl_cert=settings.gateway_tls_cert,
        ssl_key=settings.gateway_tls_key,
        ssl_protocol_min=SSLProtocols.tls12,  # as on Hypercorn
    )
