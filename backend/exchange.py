"""One request and its answer on the server's loop: body in, body out, and whether the client is there."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from backend.errors import ClientGone, GatewayError
from backend.responses import GatewayResponse, StreamedResponse
from backend.services.headers import Pair, content_length

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("gateway.exchange")

# Most small calls end sooner than this and never pay for a watcher.
WATCH_AFTER_SECONDS = 0.02
# A client that takes nothing for so long is treated as gone: it holds an upstream place.
SEND_STALL_SECONDS = 60.0

_NO_BODY = frozenset({204, 304})


class RequestBody:
    """The request body as the server delivers it; notices when the client leaves.

    Only one reader of `receive` exists at any time: whoever reads the body, or, when nobody does, the
    watcher, which looks at most one chunk ahead.
    """

    def __init__(self, receive: Receive, on_gone: Callable[[], None]) -> None:
        self._receive = receive
        self._on_gone = on_gone
        self._ahead: deque[bytes] = deque()
        self._reading = False
        self._watcher: asyncio.Task[None] | None = None
        self._watch_wanted = False
        self._arrived = asyncio.Event()
        self.ended = False
        self.gone = False

    async def read(self) -> bytes:
        """Return the next bytes, b"" at the end. Raises ClientGone when the client left before it."""
        while True:
            if self._ahead:
                return self._ahead.popleft()
            if self.ended:
                return b""
            if self.gone:
                raise ClientGone
            if self._watcher is not None:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            self._reading = True
            try:
                await self._next()
            finally:
                self._reading = False
            if self.ended and self._watch_wanted:
                self.watch()

    async def aclose(self) -> None:
        self.close()

    def watch(self) -> None:
        """From now on notice the client's departure, also while nobody reads."""
        self._watch_wanted = True
        if self._watcher is None and not self._reading and not self.gone:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    def close(self) -> None:
        """Stop watching; nothing more will be read."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()

    async def _watch(self) -> None:
        while not self.gone and not self._ahead:
            await self._next()
        while self.ended and not self.gone:
            await self._next()
        self._watcher = None
        if self.gone:
            self._on_gone()

    async def _next(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
        else:
            if chunk := message.get("body", b""):
                self._ahead.append(chunk)
            self.ended = not message.get("more_body", False)
        self._arrived.set()


class Exchange:
    """Carries one request through; sends each response exactly once and always closes it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._send = send
        self.body = RequestBody(receive, self._client_left)
        self.client_gone = False
        self.complete = False
        self.status: int | None = None
        self.broken: Exception | None = None
        self.began = time.perf_counter()
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(WATCH_AFTER_SECONDS, self.body.watch)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def finish(self) -> None:
        self._timer.cancel()
        self.body.close()

    def _client_left(self) -> None:
        if self.complete:
            return  # it has all it came for
        self.client_gone = True
        if self._task is not None:
            self._task.cancel()

    async def respond(self, response: GatewayResponse, environ: Any) -> None:
        """Send a response; one that breaks midway is left unfinished, so that nobody takes it for whole."""
        try:
            headers = response.raw_headers(environ)
            self.status = response.status_code
            await self._start(self.status, headers)
            if self.scope["method"] == "HEAD" or self.status in _NO_BODY:
                await self._finish_with(b"")
            elif isinstance(response, StreamedResponse):
                await self._stream(response, content_length(headers))
            else:
                await self._send_plain(response)
        except GatewayError as error:
            self.broken = error
        finally:
            await _close(response)

    async def _start(self, status: int, headers: list[Pair]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _finish_with(self, chunk: bytes) -> None:
        self.complete = True
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def _stream(self, response: StreamedResponse, length: int | None) -> None:
        sent = 0
        while chunk := await response.body.read():
            sent += len(chunk)
            self.complete = sent == length
            try:
                async with asyncio.timeout(SEND_STALL_SECONDS):
                    await self._send(
                        {"type": "http.response.body", "body": chunk, "more_body": sent != length}
                    )
            except TimeoutError:
                raise ClientGone from None
        if sent != length:
            await self._finish_with(b"")

    async def _send_plain(self, response: GatewayResponse) -> None:
        if response.is_sequence:
            await self._finish_with(b"".join(response.iter_encoded()))
            return
        # A generator of Flask's kind may block: each step runs in a thread.
        chunks = iter(response.iter_encoded())
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._finish_with(b"")


async def _close(response: GatewayResponse) -> None:
    try:
        if isinstance(response, StreamedResponse):
            await response.body.aclose()
    finally:
        response.close()
