"""The clients' server with the smallest application behind it, whose answer a test gives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from hypercorn.config import Config

from backend import server
from backend.clients.server import serve
from backend.config import load
from tests.support.wire import Caller

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: "


class App:
    """An application whose `answer` a test gives; keeps what each call was told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.scopes: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.left = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                scope["state"]["opened"] = True
                await send({"type": f"lifespan.{phase}.complete"})
            return
        self.scopes.append(scope)
        await self.answer(self, receive, send)

    async def read(self, receive: Any) -> bytes:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                raise ConnectionError
            body += message["body"]
            if not message["more_body"]:
                self.bodies.append(body)
                return body


async def start(send: Any, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def reply(send: Any, body: bytes) -> None:
    await start(send, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.body", "body": body})


async def echo(app: App, receive: Any, send: Any) -> None:
    await reply(send, await app.read(receive))


def config(**over: Any) -> Config:
    made = server.hypercorn_config(load({}, None, gateway_drain_seconds=5.0))
    for name, value in over.items():
        setattr(made, name, value)
    return made


@contextlib.asynccontextmanager
async def served(app: App, *, stop: asyncio.Event | None = None, **over: Any) -> AsyncIterator[int]:
    sock = server.listen(load({}, None, port=0))
    stop = stop or asyncio.Event()
    serving = asyncio.create_task(serve(app, config(**over), sock, stop))
    try:
        yield sock.getsockname()[1]
    finally:
        stop.set()
        await serving


async def closed(caller: Caller) -> bytes:
    """Return what comes before the server closes."""
    try:
        return await caller.reader.read(-1)
    except ConnectionResetError:
        return b"reset"
