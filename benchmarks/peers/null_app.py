"""An ASGI application that forwards nothing: what is left is the server."""

# On Hypercorn with the gateway's settings, on Granian with the same as far as they matter to it.

import sys
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels

from backend.granian_server import READ_BUFFER_BYTES
from backend.server import BACKLOG
from benchmarks import hypercorn_server
from benchmarks.nginx import SMALL

BODY = SMALL.encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def on_granian(port: int) -> None:
    Granian(
        "benchmarks.peers.null_app:app",
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGI,
        workers=1,
        loop=Loops.uvloop,
        http=HTTPModes.auto,
        backlog=BACKLOG,
        backpressure=BACKLOG * 4,
        http1_settings=HTTP1Settings(max_buffer_size=READ_BUFFER_BYTES),
        log_level=LogLevels.warning,
    ).serve()


if __name__ == "__main__":
    if sys.argv[3] == "granian":
        on_granian(int(sys.argv[1]))
    else:
        hypercorn_server.serve(app, int(sys.argv[1]))
