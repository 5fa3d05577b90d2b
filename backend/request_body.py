"""A request's body as the server delivers it, and whether its client is still there."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from backend.errors import ClientGone
from backend.services.headers import content_length, first

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

# How much of an unread body the watcher takes in: small bodies whole, so that it sees what comes after them.
AHEAD_BYTES = 64 * 1024
# Granian 2.8 tells of an upload that its HTTP/2 client has reset as if it had ended, and of the departure
# half a millisecond later: an end that no declared length confirms waits so long for such news.
DOUBT_SECONDS = 0.025

_BODILESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class RequestBody:
    """The request body as the server delivers it; notices when the client leaves.

    Only one reader of `receive` exists at any time: whoever reads the body, or, when nobody does, the
    watcher, which looks at most AHEAD_BYTES and a chunk ahead.
    """

    def __init__(self, scope: Scope, receive: Receive, on_gone: Callable[[], None]) -> None:
        self._scope = scope
        self._receive = receive
        self._on_gone = on_gone
        self.count = 0
        self._departure: asyncio.Future[Message] | None = None
        self._ahead: deque[bytes] = deque()
        self._ahead_bytes = 0
        self._reading = False
        self._wanted = False
        self._watcher: asyncio.Task[None] | None = None
        self._watch_wanted = False
        self._arrived: asyncio.Event | None = None
        self.ended = False
        self.gone = False

    async def read(self) -> bytes:
        """Return the next bytes, b"" at the end. Raises ClientGone when the client left before it."""
        while True:
            if self._ahead:
                chunk = self._ahead.popleft()
                self._ahead_bytes -= len(chunk)
                return chunk
            if self.ended:
                return b""
            if self.gone:
                raise ClientGone
            if self._watcher is not None:
                self._arrived = asyncio.Event()
                self._wanted = True
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
        if self._departure is not None:
            self._departure.cancel()
        self._on_gone = _nobody_cares  # an exchange that is over is freed at once, not by the collector

    async def _watch(self) -> None:
        self._wanted = False
        while not self.gone and (self.ended or (self._ahead_bytes < AHEAD_BYTES and not self._wanted)):
            await self._next()
        self._watcher = None
        if self.gone:
            self._on_gone()

    async def _next(self) -> None:
        message = await (self._receive() if self._departure is None else self._departure)
        if message["type"] == "http.disconnect":
            self.gone = True
        else:
            if chunk := message.get("body", b""):
                self._ahead.append(chunk)
                self._ahead_bytes += len(chunk)
                self.count += len(chunk)
            if not message.get("more_body", False):
                self.gone = await self._cut_off(chunk)
                self.ended = not self.gone
        if self._arrived is not None:
            self._arrived.set()

    async def _cut_off(self, last: bytes) -> bool:
        """Tell whether the client left before the end of a body that the server calls ended."""
        scope, headers = self._scope, self._scope["headers"]
        chunked = scope["http_version"].startswith("1") and first(headers, b"transfer-encoding") is not None
        length = None if chunked else content_length(headers)
        if length is not None:
            return self.count < length
        if last or scope["http_version"].startswith("1") or scope["method"] in _BODILESS_METHODS:
            return False
        self._departure = asyncio.ensure_future(self._receive())
        return bool((await asyncio.wait({self._departure}, timeout=DOUBT_SECONDS))[0])


def _nobody_cares() -> None:
    """Stand in for the exchange of a body that is closed."""
