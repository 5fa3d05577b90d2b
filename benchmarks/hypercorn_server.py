"""Hypercorn for peers, with the very settings that the gateway gives it."""

import asyncio
from typing import Any

import uvloop
from hypercorn.asyncio.run import worker_serve
from hypercorn.config import Sockets
from hypercorn.utils import wrap_app

from backend.config import load
from backend.server import hypercorn_config, listen


def serve(app: Any, port: int) -> None:
    """Serve an ASGI application until a signal ends the process."""
    settings = load({}, None, port=port)
    config = hypercorn_config(settings)
    sockets = Sockets([], [listen(settings)], [])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(worker_serve(wrap_app(app, config.wsgi_max_body_size, "asgi"), config, sockets=sockets))
