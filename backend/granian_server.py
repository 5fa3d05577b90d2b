"""Running the gateway on Granian, the choice for the highest rates: it brings workers of its own."""

import logging
from typing import NoReturn

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels

from backend.config import Settings
from backend.server import BACKLOG, HEAD_BYTES, HTTP2_STREAMS, allow_open_files, leave

# Granian reads the head and the first of the body into one buffer.
READ_BUFFER_BYTES = 256 * 1024


def serve(settings: Settings, port: int) -> NoReturn:
    """Serve `run:app` on Granian until a signal says stop; ends the process."""
    allow_open_files()
    server = Granian(
        "run:app",
        address=settings.host,
        port=port,
        interface=Interfaces.ASGI,
        workers=settings.workers,
        loop=Loops.auto if settings.gateway_uvloop else Loops.asyncio,
        http=HTTPModes.auto,
        websockets=True,
        backlog=BACKLOG,
        # Calls at once in a worker; beyond, Granian stops accepting.
        backpressure=BACKLOG * 4,
        http1_settings=HTTP1Settings(max_buffer_size=READ_BUFFER_BYTES),
        http2_settings=HTTP2Settings(max_concurrent_streams=HTTP2_STREAMS, max_headers_size=HEAD_BYTES),
        log_level=LogLevels.warning,
        ssl_cert=settings.gateway_tls_cert,
        ssl_key=settings.gateway_tls_key,
        respawn_failed_workers=True,
        respawn_interval=0.5,
        workers_kill_timeout=int(settings.gateway_drain_seconds),
    )
    server.serve()
    logging.getLogger("gateway.server").info("stopped")
    leave(0)
