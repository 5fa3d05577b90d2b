"""One request of an HTTP/2 connection as the application sees it: ASGI messages in and out."""

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol
from urllib.parse import unquote

from backend.http2.connection import Connection
from backend.http2.frames import Code
from backend.http2.heads import Pair, RequestHead

Message = MutableMapping[str, Any]
Scope = dict[str, Any]

# A client that takes nothing of an answer for so long has gone, whatever its PINGs say.
SEND_STALL_SECONDS = 60.0
# What one read hands over at most.
READ_BYTES = 64 * 1024
_NO_BODY = frozenset({204, 304})


class Line(Protocol):
    """What a call needs of the protocol it came by."""

    connection: Connection

    def flush(self) -> None: ...

    def own_headers(self) -> list[Pair]: ...


class Call:
    """Collects the body as it arrives; what the application has read, the client may send again."""

    def __init__(self, stream_id: int, line: Line, scope: Scope) -> None:
        self.id = stream_id
        self.scope = scope
        self._line = line
        # Octets, not chunks: a body in frames of one octet each must not cost fifty times its size.
        self._arrived = bytearray()
        self._ended = False
        self._end_told = False
        self._gone = False
        self._on_left: Callable[[], None] | None = None
        scope["extensions"]["departure"] = self.when_left
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._expects = any(name == b"expect" for name, _ in scope["headers"])
        self._status: int | None = None
        self.complete = False

    def __repr__(self) -> str:
        state = "gone" if self._gone else "complete" if self.complete else "open"
        return f"<Call {self.id} {self.scope['method']} {state}, {len(self._arrived)} octets unread>"

    # From the connection

    def arrived(self, content: bytes, *, ended: bool) -> None:
        self._arrived += content
        self._ended = ended
        _wake(self._news)

    def left(self) -> None:
        """The client ended the stream, or the connection."""
        self._gone = True
        self._arrived.clear()
        _wake(self._news)
        _wake(self._room)
        tell, self._on_left = self._on_left, None
        if tell is not None and not self.complete:
            tell()

    def when_left(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the client leaves before it has the whole answer."""
        self._on_left = tell
        if self._gone:
            tell()

    def drained(self) -> None:
        """All that was to be sent is on its way."""
        _wake(self._room)

    # From the application

    async def receive(self) -> Message:
        while True:
            if self._gone or (self.complete and self._end_told):
                return {"type": "http.disconnect"}
            if self._arrived or (self._ended and not self._end_told):
                return self._read()
            if self._expects and self._status is None:
                self._expects = False
                self._line.connection.answer(self.id, 100, [])
                self._line.flush()
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    def _read(self) -> Message:
        content = bytes(self._arrived[:READ_BYTES])
        del self._arrived[:READ_BYTES]
        self._end_told = self._ended and not self._arrived
        self._line.connection.read(self.id, len(content))
        self._line.flush()
        return {"type": "http.request", "body": content, "more_body": not self._end_told}

    async def send(self, message: Message) -> None:
        """Take a part of the answer; returns when the next may come."""
        kind = message["type"]
        if kind == "http.response.start" and self._status is None:
            self._start(message["status"], message.get("headers", ()))
        elif kind == "http.response.body" and self._status is not None and not self.complete:
            await self._send(message.get("body", b""), end=not message.get("more_body", False))
        elif not self._gone:
            raise RuntimeError(f"{kind} does not follow what was sent before")

    def _start(self, status: int, headers: Any) -> None:
        self._status = status
        if not self._gone:
            self._line.connection.answer(self.id, status, [*headers, *self._line.own_headers()])
            self._line.flush()

    async def _send(self, content: bytes, *, end: bool) -> None:
        self.complete = end
        if self._gone:
            return
        if self.scope["method"] == "HEAD" or self._status in _NO_BODY:
            content = b""
        connection = self._line.connection
        whole = connection.send(self.id, content, end=end)
        self._line.flush()
        while not whole and not self._gone:
            unsent = connection.unsent(self.id)
            self._room = asyncio.get_running_loop().create_future()
            watch = asyncio.get_running_loop().call_later(SEND_STALL_SECONDS, self._look, unsent)
            try:
                await self._room
            finally:
                watch.cancel()
            whole = not connection.unsent(self.id)

    def _look(self, unsent: int) -> None:
        """Give up on a client that has taken nothing since the last look."""
        if self._line.connection.unsent(self.id) == unsent:
            self._line.connection.reset(self.id, Code.CANCEL)
            self.left()
            self._line.flush()
        else:
            _wake(self._room)  # and it looks again

    def finish(self) -> None:
        """End the stream after the application has: an unfinished answer never looks whole."""
        self._on_left = None
        self.scope["extensions"].clear()  # it knows this call: nothing may go round in circles
        self._on_left = None  # nobody is there to be told, and the task's last steps are not to be cancelled
        if self._gone or self.complete:
            return
        if self._status is None:
            self.complete = True
            headers = [(b"content-length", b"0"), *self._line.own_headers()]
            self._line.connection.answer(self.id, 500, headers, end=True)
        else:
            self._line.connection.reset(self.id, Code.INTERNAL_ERROR)
            self.left()
        self._line.flush()


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def scope_of(head: RequestHead, **of_connection: Any) -> Scope:
    """Return the ASGI scope of a request."""
    path, _, query = head.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "http_version": "2",
        "method": head.method.decode("ascii").upper(),
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "headers": head.headers,
        "extensions": {},
    } | of_connection
