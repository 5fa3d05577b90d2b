"""One request and its answer on the server's loop: body in, body out, and whether the client is there."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from email.utils import formatdate
from functools import lru_cache
from typing import TypeVar

from flask import Flask

from backend.errors import ClientGone, GatewayError, InternalError, UpstreamBroken
from backend.patrol import Patrol
from backend.request_body import Message, Receive, RequestBody, Scope
from backend.responses import GatewayResponse, StreamedResponse, UpgradedResponse
from backend.services.deadline import Deadline
from backend.services.forwarding import Inbound
from backend.services.headers import PSEUDONYM, Pair, content_length, first
from backend.services.trail import TRAIL, Trail
from backend.services.websocket.relay import Opened, Relay
from backend.services.websocket.sides import Side

Send = Callable[[Message], Awaitable[None]]
# Accepts a handshake with these header lines, and gives the client's side of the WebSocket.
Accept = Callable[[Opened, list[Pair]], Awaitable[Side]]

T = TypeVar("T")

log = logging.getLogger("gateway.exchange")

# A client that takes nothing for so long is treated as gone: it holds an upstream place.
SEND_STALL_SECONDS = 60.0
# After an answer that came before the end of the request body the rest is taken in and dropped, for so long
# and while it does not pause for so long: closing at once would reset the connection, and the client would
# lose the answer (RFC 9112, section 9.6).
LINGER_SECONDS = 30.0
LINGER_PAUSE_SECONDS = 2.0

_NO_BODY = frozenset({204, 304})


@lru_cache(maxsize=1)
def _http_date(second: int) -> bytes:
    """RFC 9110, section 6.6.1: an answer says when it was made."""
    return formatdate(second, usegmt=True).encode("ascii")


class Exchange:
    """Carries one request through; sends each response exactly once and always closes it."""

    def __init__(
        self,
        flask: Flask,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        signs: bool = False,
        timed: bool = False,
        stall_seconds: float = SEND_STALL_SECONDS,
    ) -> None:
        self.flask = flask
        self.scope = scope
        self._signs = signs
        self._timed = timed
        self._stall_seconds = stall_seconds
        self._send = send
        self.body = RequestBody(scope, receive, self._client_left)
        self.client_gone = False
        self.complete = False
        self.status: int | None = None
        self.broken: GatewayError | None = None
        self.trouble: type[GatewayError] | None = None
        self.sent_bytes = 0
        self.inbound: Inbound | None = None
        # How to accept, where this is a WebSocket's handshake.
        self.accept: Accept | None = scope.get("extensions", {}).get("accept")
        self.relay: Relay | None = None
        self.trail = Trail()
        TRAIL.set(self.trail)
        self._task = asyncio.current_task()
        self._deadline: Deadline | None = None
        self._context: Context | None = None
        self.made: list[GatewayResponse] = []
        self._answer: GatewayResponse | None = None
        self._patrol: Patrol | None = None
        # A server that tells of departures spares the exchange a watcher of its own.
        when_left: Callable[[Callable[[], None]], None] | None = scope.get("extensions", {}).get("departure")
        if when_left is not None:
            when_left(self._departed)
        else:
            self._patrol = Patrol.here()
            self._patrol.add(self)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.trail.began

    @property
    def received_bytes(self) -> int:
        """What the client sent: the body, or through a WebSocket."""
        return self.body.count if self.relay is None else self.relay.received_bytes

    def finish(self) -> None:
        if self.relay is not None:
            self.sent_bytes = self.relay.sent_bytes
        if self.body.gone and not self.complete:
            self.client_gone = True  # whoever read the body found out
        if self._patrol is not None:
            self._patrol.drop(self)
        if self._deadline is not None:
            self._deadline.close()
        self.body.close()

    def watch(self) -> bool:
        """From now on notice that the client leaves; True while the body's reader may need a stand-in."""
        self.body.watch()
        return not self.body.ended and not self.body.gone

    def _departed(self) -> None:
        self.body.gone = True
        self._client_left()

    def _client_left(self) -> None:
        if self.complete:
            return  # it has all it came for
        self.client_gone = True
        if self._task is not None:
            self._task.cancel()

    async def respond(self, response: GatewayResponse) -> None:
        """Send a response; one that breaks midway is left unfinished, so that nobody takes it for whole."""
        self._answer = response
        try:
            if self.body.gone:
                return
            headers = response.raw_headers()
            self.status = response.status_code
            self.trouble = response.trouble
            if isinstance(response, UpgradedResponse):
                await self._relay(response.opened, headers)
                return
            await self._start(self.status, headers)
            if self.scope["method"] == "HEAD" or self.status in _NO_BODY:
                await self._finish_with(b"")
            elif isinstance(response, StreamedResponse):
                await self._stream(response, content_length(headers))
            else:
                await self._send_plain(response)
        except ClientGone:
            self.client_gone = True
        except GatewayError as error:
            self.broken = error
        finally:
            await self._close(response)

    async def release(self) -> None:
        """Close what the application made and threw away, as when a hook fails after the view."""
        for response in self.made:
            if response is not self._answer:
                await self._close(response)

    async def _start(self, status: int, headers: list[Pair]) -> None:
        self.trail.answered()
        if self._timed:
            # A line of its own: an upstream's stay what they are.
            headers = [*headers, (b"server-timing", self.trail.timing())]
        headers = self._signed(headers)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _relay(self, opened: Opened, headers: list[Pair]) -> None:
        if self.accept is None:
            raise InternalError
        self.trail.answered()
        self.relay = opened.relay
        side = await self.accept(opened, self._signed(headers))
        self.complete = True  # the head of the answer is; from here on the relay notices who leaves
        ending = await opened.relay.run(side)
        self.client_gone = ending.client_lost
        if ending.upstream_lost:
            raise UpstreamBroken

    def _signed(self, headers: list[Pair]) -> list[Pair]:
        if not self._signs:
            return headers
        headers = [*headers, (b"server", PSEUDONYM)]
        if first(headers, b"date") is None:
            headers.append((b"date", _http_date(int(time.time()))))
        return headers

    async def _finish_with(self, chunk: bytes) -> None:
        self.complete = True
        self.sent_bytes += len(chunk)
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def _stream(self, response: StreamedResponse, length: int | None) -> None:
        sent = 0
        while chunk := await self._read(response, first=not sent):
            sent += len(chunk)
            self.sent_bytes = sent
            self.complete = sent == length
            message = {"type": "http.response.body", "body": chunk, "more_body": sent != length}
            if sent == length:
                # The upstream's place is free by now: a client that does not take this holds nothing.
                await self._send(message)
                return
            try:
                await self._in_time(self._send(message), self._stall_seconds)
            except TimeoutError:
                raise ClientGone from None
        await self._finish_with(b"")

    async def _read(self, response: StreamedResponse, *, first: bool) -> bytes:
        try:
            return await response.body.read()
        except GatewayError:
            if first:
                # Granian sends a head with the first of its body; without that it answers 500 by itself.
                await self._send({"type": "http.response.body", "body": b"", "more_body": True})
            raise

    async def _in_time(self, awaitable: Awaitable[T], seconds: float) -> T:
        if self._deadline is None:
            self._deadline = Deadline()
        return await self._deadline.within(awaitable, self._deadline.now() + seconds)

    async def _send_plain(self, response: GatewayResponse) -> None:
        if response.is_sequence:
            content = b"".join(response.iter_encoded())
            if self._body_is_unread():
                self.complete = True
                self.sent_bytes = len(content)
                await self._send({"type": "http.response.body", "body": content, "more_body": True})
                await self._linger()
                content = b""
            await self._finish_with(content)
            return
        # A generator of Flask's kind may block: each step runs in a thread, all of them in one context,
        # which `stream_with_context` enters in the first and leaves in the last.
        self._context = copy_context()
        chunks = iter(response.iter_encoded())
        while (chunk := await _in_thread(self._context, lambda: next(chunks, None))) is not None:
            self.sent_bytes += len(chunk)
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._finish_with(b"")

    def _body_is_unread(self) -> bool:
        """Tell whether the client may still be sending; over HTTP/2 a stream just ends."""
        headers = self.scope["headers"]
        return (
            not (self.body.ended or self.body.gone)
            and self.scope["http_version"].startswith("1")
            and (bool(content_length(headers)) or first(headers, b"transfer-encoding") is not None)
        )

    async def _linger(self) -> None:
        last = time.monotonic() + LINGER_SECONDS
        with suppress(ClientGone, TimeoutError):
            while await self._in_time(self.body.read(), min(last - time.monotonic(), LINGER_PAUSE_SECONDS)):
                pass

    async def _close(self, response: GatewayResponse) -> None:
        try:
            if isinstance(response, StreamedResponse):
                await response.body.aclose()
            elif isinstance(response, UpgradedResponse):
                await response.opened.relay.aclose()
        finally:
            if self._context is None:
                response.close()
            else:
                await _in_thread(self._context, response.close)


async def _in_thread(context: Context, work: Callable[[], T]) -> T:
    """Run blocking work in a thread.

    A cancellation waits for its end: a generator that runs cannot be closed.
    """
    future = asyncio.get_running_loop().run_in_executor(None, context.run, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()
        raise


# The exchange that the present task carries; None under a plain WSGI server.
CURRENT: ContextVar[Exchange | None] = ContextVar("exchange", default=None)
