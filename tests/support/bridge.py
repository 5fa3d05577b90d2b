"""Small Flask applications behind the bridge: driven by hand as an ASGI server would, or on Hypercorn."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from hypercorn.asyncio.run import worker_serve
from hypercorn.config import Sockets
from hypercorn.utils import wrap_app

from backend import hooks, server
from backend.asgi import Bridge, GatewayFlask
from backend.clients.server import serve as serve_clients
from backend.config import load
from backend.cors import Cors
from backend.exchange import Exchange
from backend.request_body import Message
from backend.responses import GatewayResponse, StreamedResponse
from backend.services.threads import Threads
from backend.wsgi import Life

Routes = Callable[[GatewayFlask], None]


@contextlib.asynccontextmanager
async def no_life() -> AsyncIterator[None]:
    yield


@dataclass
class Bridged:
    """A small application: both its faces, the threads of its plain views, and every exchange that ended."""

    flask: GatewayFlask
    asgi: Bridge
    threads: Threads
    ended: list[Exchange] = field(default_factory=list)


def bridged(routes: Routes, *, life: Life = no_life, threads: int = 4, waiting: int = 20) -> Bridged:
    """Put an application behind the bridge; `routes` adds its views."""
    flask = GatewayFlask("t", life=life)
    routes(flask)
    pool = Threads(threads, waiting=waiting, name="view")
    ended: list[Exchange] = []
    return Bridged(flask, Bridge(flask, life, threads=pool, observer=ended.append), pool, ended)


def nothing(app: GatewayFlask) -> None:
    """An application without views."""


class Client:
    """The other side of one ASGI call: sends what a server would deliver and keeps what it is sent."""

    def __init__(
        self,
        app: Any,
        method: str = "GET",
        path: str = "/",
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
        body: bytes | None = b"",
        http_version: str = "1.1",
        takes: int | None = None,
    ) -> None:
        """Begin the call; with `body=None` its body is still to come, by `push`.

        After `takes` messages, or while `accepts` is cleared, it takes nothing more.
        """
        self._takes = takes
        self.messages: list[Message] = []
        self.accepts = asyncio.Event()
        self.accepts.set()
        self._coming: asyncio.Queue[Message] = asyncio.Queue()
        self._left = False
        if body is not None:
            self.push(body, more=False)
        lines = {"host": "test.local"} | (headers or {})
        if body:
            lines["content-length"] = str(len(body))
        scope = {
            "type": "http",
            "http_version": http_version,
            "asgi": {"version": "3.0"},
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in lines.items()],
            "client": ("192.0.2.7", 50000),
            "server": ("test.local", 80),
        }
        self.task: asyncio.Task[None] = asyncio.create_task(app(scope, self._receive, self._send))

    def push(self, chunk: bytes, *, more: bool = True) -> None:
        self._coming.put_nowait({"type": "http.request", "body": chunk, "more_body": more})

    def leave(self) -> None:
        self._left = True
        self._coming.put_nowait({"type": "http.disconnect"})

    async def answered(self, seconds: float = 10) -> "Client":
        """Wait until the application is done with this call."""
        async with asyncio.timeout(seconds):
            await self.task
        return self

    @property
    def undelivered(self) -> int:
        return self._coming.qsize()

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode("latin-1") for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(m["body"] for m in self.messages if m["type"] == "http.response.body")

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def whole(self) -> bool:
        """Whether the application said that its answer is complete."""
        return bool(self.messages) and not self.messages[-1].get("more_body", True)

    async def _receive(self) -> Message:
        message = await self._coming.get()
        if self._left and self._coming.empty():
            self._coming.put_nowait({"type": "http.disconnect"})
        return message

    async def _send(self, message: Message) -> None:
        await self.accepts.wait()
        self.messages.append(message)
        if len(self.messages) == self._takes:
            self.accepts.clear()


async def call(app: Any, method: str = "GET", path: str = "/", **how: Any) -> Client:
    """Make one call by hand and wait for its answer."""
    return await Client(app, method, path, **how).answered()


@contextlib.asynccontextmanager
async def on_hypercorn(app: Any, mode: Any = "asgi") -> AsyncIterator[int]:
    """Serve an ASGI application on this loop as the gateway is served, a WSGI one on plain Hypercorn.

    Gives the port.
    """
    settings = load({}, None, port=0, gateway_drain_seconds=5.0, gateway_uvloop=False)
    sock = server.listen(settings)
    config = server.hypercorn_config(settings)
    stop = asyncio.Event()
    if mode == "asgi":
        serve = asyncio.ensure_future(serve_clients(app, config, sock, stop))
    else:
        wrapped = wrap_app(app, config.wsgi_max_body_size, mode)
        sockets = Sockets([], [sock], [])
        serve = asyncio.ensure_future(
            worker_serve(wrapped, config, sockets=sockets, shutdown_trigger=stop.wait)
        )
    try:
        yield sock.getsockname()[1]
    finally:
        stop.set()
        await serve


class Body:
    """A streamed body that remembers how it was treated; steps are chunks, events to wait for, or errors."""

    def __init__(self, *steps: bytes | asyncio.Event | Exception) -> None:
        self.steps = list(steps)
        self.reads = 0
        self.closed = 0

    async def read(self) -> bytes:
        self.reads += 1
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, bytes):
                return step
            if isinstance(step, Exception):
                raise step
            await step.wait()
        return b""

    async def aclose(self) -> None:
        self.closed += 1


def one_view(view: Callable[..., Any], *, drawn: bool = False, **rule: Any) -> Bridged:
    """An application with one view at `/`; `drawn`: with the gateway's hooks and error answers."""

    def routes(app: GatewayFlask) -> None:
        app.add_url_rule("/", "view", view, **rule)
        if drawn:
            hooks.register(app, Cors(()))

    return bridged(routes)


def streaming(body: Body, *headers: tuple[bytes, bytes], status: int = 200, **how: Any) -> Bridged:
    async def view() -> GatewayResponse:
        return StreamedResponse(status, list(headers), body)

    return one_view(view, **how)


class Waiting:
    """A view that waits for ever, and tells when it began and how it ended."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended: list[str] = []

    async def __call__(self) -> str:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            self.ended.append("cleaned up")
        return "never"


def waiting_view(waiting: Waiting, **rule: Any) -> Bridged:
    async def view() -> str:
        return await waiting()

    return one_view(view, drawn=True, **rule)
