"""Running the gateway on Granian, the choice for the highest rates: it brings workers of its own."""

import logging
import math
import os
from typing import Any, NoReturn

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels

from backend.config import Settings
from backend.server import (
    BACKLOG,
    HEAD_BYTES,
    HTTP2_STREAMS,
    KEEP_ALIVE_SECONDS,
    allow_open_files,
    leave,
)

# Granian reads the head and the first of the body into one buffer.
READ_BUFFER_BYTES = 256 * 1024
# A silent HTTP/2 connection is asked for a sign of life; without one it ends 20 s later, Granian's default.
PING_SECONDS = 15.0


class _Impatient(Granian):  # type: ignore[misc, valid-type]  # Granian chooses its class when imported
    """Granian whose second SIGTERM or SIGINT ends everything at once."""

    def signal_handler_interrupt(self, number: int, *rest: Any) -> None:
        if self.interrupt_signal:
            for worker in self.wrks:
                worker.kill()
            os._exit(128 + number)
        super().signal_handler_interrupt(number, *rest)


def serve(settings: Settings, port: int) -> NoReturn:
    """Serve `run:app` on Granian until a signal says stop; ends the process."""
    allow_open_files()
    server = _Impatient(
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
        respawn_failed_workers=True,
        respawn_interval=0.5,
        # Whole seconds, and 0 would wait for ever.
        workers_kill_timeout=math.ceil(settings.gateway_drain_seconds),
    )
    server.serve()
    logging.getLogger("gateway.server").info("stopped")
    leave(0)
