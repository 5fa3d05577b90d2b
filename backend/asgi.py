"""The bridge: Flask's own dispatch on the ASGI server's loop.

Nothing here knows avatars. `GatewayFlask` overrides one documented hook of Flask; `Bridge` is the ASGI
application that any server can run.
"""

import asyncio
import functools
import io
import logging
from collections.abc import Callable, Coroutine
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import sync_to_async
from flask import Flask, Request
from werkzeug.routing import MapAdapter

from backend import switch
from backend.exchange import CURRENT, SEND_STALL_SECONDS, Exchange, Send
from backend.request_body import Receive, RequestBody, Scope
from backend.responses import EXCHANGE, GatewayResponse
from backend.routing import ROUTE, Matches, NoSession
from backend.services.threads import Threads
from backend.services.traces import Tracer
from backend.shortcut import Shortcut, direct
from backend.websockets import Handshake
from backend.wsgi import BackgroundLoop, Life

log = logging.getLogger("gateway")

Observer = Callable[[Exchange], None]


class GatewayFlask(Flask):
    """Flask whose async views run on the loop that serves: the bridge's, or under WSGI the background one."""

    response_class = GatewayResponse

    def __init__(self, import_name: str, *, life: Life) -> None:
        super().__init__(import_name, static_folder=None)
        # A path means what it says: no redirects to a tidier one.
        self.url_map.merge_slashes = False
        self.url_map.strict_slashes = False
        self.session_interface = NoSession()
        self.background = BackgroundLoop(life)
        self.matches = Matches(self.url_map)
        # Bounded, as functions may be made for one request, such as those of `after_this_request`.
        self._made_sync = functools.lru_cache(maxsize=256)(super().ensure_sync)

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        return None if request is None else self.matches.adapter(request)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return self._made_sync(func)

    def async_to_sync(self, func: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if switch.inside():
                return switch.wait(func(*args, **kwargs))
            return self.background.call(func, *args, **kwargs)

        return call


class Bridge:
    """Runs a Flask application as an ASGI one: lifespan, streaming both ways, cancellation, no mixing."""

    def __init__(
        self,
        flask: GatewayFlask,
        life: Life,
        *,
        threads: Threads,
        observer: Observer,
        timed: bool = False,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._flask = flask
        self._life = life
        self._observer = observer
        # Whether answers tell in Server-Timing where their time went.
        self._timed = timed
        self.in_flight = 0
        # Whether answers get their Date and Server here: True behind a server that was told to add none.
        self.signs = False
        self.stall_seconds = SEND_STALL_SECONDS
        # Granian tells of a malformed body as of a client that left, and says 500 where nothing was said.
        self.answers_leavers = False
        self._handshakes: dict[Handshake, asyncio.Task[Any]] = {}
        # Done when the server stops: answers that never end by themselves would hold it up.
        self.at_stop: list[Callable[[], None]] = []
        self._shortcut = Shortcut(flask, flask.matches)
        flask.after_request(_noted)  # the last to be added, and so the first of the application's to run
        for endpoint, view in flask.view_functions.items():
            if not iscoroutinefunction(view):
                flask.view_functions[endpoint] = _in_thread(view, threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await self._lifespan(receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case other:
                raise ValueError(f"unknown ASGI scope {other}")

    def stopping(self) -> None:
        """The server closes its door and waits for the calls in flight; harmless when told again."""
        for act in self.at_stop:
            act()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(
            self._flask,
            scope,
            receive,
            send,
            signs=self.signs,
            timed=self._timed,
            stall_seconds=self.stall_seconds,
        )
        if self._tracer is not None and exchange.trail.began >= self._tracer.rests_until:
            exchange.trail.trace = self._tracer.begun(scope["headers"])
        self.in_flight += 1
        CURRENT.set(exchange)
        try:
            await exchange.respond(await self._response(exchange))
        except asyncio.CancelledError:
            if not exchange.client_gone:
                raise  # the server stops
        finally:
            self.in_flight -= 1
            await exchange.release()
            exchange.finish()
            if self.answers_leavers and exchange.client_gone and exchange.status is None:
                await send(
                    {"type": "http.response.start", "status": 400, "headers": [(b"connection", b"close")]}
                )
                await send({"type": "http.response.body", "body": b""})
            self._observer(exchange)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A handshake is a request like others: routing, hooks and views answer it."""
        await receive()  # websocket.connect
        handshake = Handshake(scope, receive, send)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - narrows the type
        self._handshakes[handshake] = task
        try:
            await self._http(handshake.scope, handshake.receive, handshake.send)
        finally:
            del self._handshakes[handshake]

    async def close_sockets(self, seconds: float) -> None:
        """Close every WebSocket of a server that is about to stop, and cannot tell them by itself."""
        for handshake in self._handshakes:
            handshake.stop()
        if self._handshakes:
            await asyncio.wait(self._handshakes.values(), timeout=seconds)

    async def _response(self, exchange: Exchange) -> GatewayResponse:
        """Let the application answer: by the short way where there is one, else by Flask's own dispatch."""
        work: Callable[..., Any] = self._flask.wsgi_app
        view = self._shortcut.view_for(exchange)
        if view is not None:
            try:
                response = await self._shortcut.answer(view)
            except Exception as error:  # what Flask's dispatch catches, and hands on in the same way
                work = functools.partial(self._handled, error)
            else:
                try:
                    return self._shortcut.finished(response)
                except Exception as error:  # of a hook, whatever it is: Flask answers for it
                    work = functools.partial(self._failed, error)
        environ = environ_of(exchange.scope, exchange)
        try:
            return _as_response(await switch.run(work, environ, _taken_from_the_response))
        finally:
            exchange.trail.route = environ.get(ROUTE, exchange.trail.route)

    def _handled(self, error: Exception, environ: dict[str, Any], _: object) -> Any:
        """Let Flask's error handlers answer for what came up on the short way."""
        with self._flask.request_context(environ):
            try:
                return self._flask.finalize_request(self._flask.handle_user_exception(error))
            except Exception as worse:  # of an error handler, as Flask's own dispatch has it
                return self._flask.handle_exception(worse)

    def _failed(self, error: Exception, environ: dict[str, Any], _: object) -> Any:
        """Let Flask answer for a hook that failed after the view."""
        with self._flask.request_context(environ):
            return self._flask.handle_exception(error)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        phase = "startup"
        try:
            async with self._life():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except Exception as exc:  # whatever opening or closing raised: the server has to be told
            log.exception("%s failed", phase)
            await send({"type": f"lifespan.{phase}.failed", "message": str(exc)})
        else:
            await send({"type": "lifespan.shutdown.complete"})


def _in_thread(view: Callable[..., Any], threads: Threads) -> Callable[..., Any]:
    """Wrap a plain view: it may block, so it leaves the loop, with its context, for a thread."""
    run = sync_to_async(view, thread_sensitive=False, executor=threads.executor)

    @functools.wraps(view)
    def call(**kwargs: Any) -> Any:
        if not switch.inside():
            return view(**kwargs)
        with threads.place():
            return switch.wait(run(**kwargs))

    return call


@direct
def _noted(response: Any) -> Any:
    """Let the exchange know of every response, also of one that a later hook will lose."""
    exchange = CURRENT.get()
    if exchange is not None:
        exchange.made.append(response)
    return response


def _taken_from_the_response(
    status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
) -> Callable[[bytes], object]:
    """Stand in for WSGI's start_response, which is never called: the response itself comes back."""
    raise AssertionError("a WSGI middleware replaced the response")


def _as_response(response: Any) -> GatewayResponse:
    if not isinstance(response, GatewayResponse):
        raise TypeError("a WSGI middleware replaced the response")
    return response


def environ_of(scope: Scope, exchange: Exchange) -> dict[str, Any]:
    """Return the WSGI view of a request; the exchange travels along for those who stream."""
    server = scope.get("server") or ("localhost", 80)
    client = scope.get("client") or ("", 0)
    root: str = scope.get("root_path", "")
    path: str = scope["path"]
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root.encode().decode("latin-1"),
        "PATH_INFO": path.removeprefix(root).encode("utf-8", "surrogateescape").decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1] or 80),
        "REMOTE_ADDR": client[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": _BodyInput(exchange.body, asyncio.get_running_loop()),
        "wsgi.input_terminated": True,
        "wsgi.errors": _ErrorsToLog(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        EXCHANGE: exchange,
    }
    for name, value in scope["headers"]:
        key = _environ_key(name)
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ


@functools.lru_cache(maxsize=512)
def _environ_key(name: bytes) -> str:
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


class _ErrorsToLog(io.TextIOBase):
    """Takes what WSGI code writes to `wsgi.errors`."""

    def write(self, text: str) -> int:
        if text.strip():
            log.error("%s", text.rstrip())
        return len(text)


class _BodyInput(io.RawIOBase):
    """The request body for code that reads synchronously: hooks, and plain views in their threads."""

    def __init__(self, body: RequestBody, loop: asyncio.AbstractEventLoop) -> None:
        self._body = body
        self._loop = loop
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = self._next()
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken

    def _next(self) -> bytes:
        if switch.inside():
            return switch.wait(self._body.read())
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(self._body.read(), self._loop).result()
        raise RuntimeError("an async view awaits the body instead of reading it: see backend.context")
