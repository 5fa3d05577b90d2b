"""One request and its answer as the ASGI application sees them."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from backend.clients.answer import Answer
from backend.clients.head import RequestHead
from backend.clients.upgrade import ClientWire, upgrade_head
from backend.errors import ClientGone
from backend.services.headers import Pair
from backend.services.websocket.frames import GOING_AWAY
from backend.services.websocket.relay import Opened

if TYPE_CHECKING:
    from backend.clients.connection import Connection

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]


class Call:
    """Carries one request to the application and its answer back; `over` once nobody waits for more."""

    __slots__ = (
        "_answer",
        "_connection",
        "_must_continue",
        "_on_left",
        "_request",
        "_told_end",
        "_unread",
        "_unsent_head",
        "_waiter",
        "ended",
        "over",
    )

    def __init__(self, connection: "Connection", request: RequestHead) -> None:
        self._connection = connection
        self._request = request
        self._must_continue = request.expects_continue
        self._unread: bytes | bytearray = b""
        self._told_end = False
        self._waiter: asyncio.Future[None] | None = None
        self._on_left: Callable[[], None] | None = None
        self._answer: Answer | None = None
        self._unsent_head = b""
        self.ended = request.length == 0  # the request body has arrived
        self.over = False

    @property
    def began_answering(self) -> bool:
        return self._answer is not None

    @property
    def unread_bytes(self) -> int:
        return len(self._unread)

    async def run(self, application: Application) -> None:
        """Let the application answer; what it leaves undone breaks the connection."""
        connection = self._connection
        try:
            await application(self._scope(), self.receive, self.send)
        except asyncio.CancelledError:
            raise
        except Exception:  # an application's mistake costs its connection, not the server
            await connection.server.config.log.exception("Error in ASGI Framework")
        finally:
            self._left_undone()
            connection.server.forget_task(asyncio.current_task())

    def _scope(self) -> dict[str, Any]:
        request, connection = self._request, self._connection
        path, _, query = request.target.partition(b"?")
        text = path.decode("ascii")
        # An application that is told of a departure need not wait for it in `receive`.
        extensions: dict[str, Any] = {"departure": self.when_left}
        if request.upgrades:
            extensions["accept"] = self.accept
        return {
            "type": "http",
            "http_version": request.http_version,
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": request.method,
            "scheme": connection.scheme,
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "root_path": connection.server.config.root_path,
            "headers": request.headers,
            "client": connection.client,
            "server": connection.address,
            "state": connection.server.state.copy(),
            "extensions": extensions,
        }

    async def accept(self, opened: Opened, headers: list[Pair]) -> ClientWire:
        """Answer 101, and let the connection go. Raises ClientGone when nobody is there any more."""
        if self.over:
            raise ClientGone
        head = upgrade_head(opened, headers)
        self.end()
        if self._connection.server.stopping:
            opened.relay.end(GOING_AWAY, "the server stops")
        return self._connection.upgrade(head, opened.relay.limits.message_bytes)

    def _left_undone(self) -> None:
        if self.over:
            return
        if self._answer is None:
            self._connection.refuse(500)
        else:
            self._connection.break_off(reset=self._answer.cut_looks_whole)
        self.end()

    # The request.

    def feed(self, body: bytes, *, ended: bool) -> None:
        """Take what has arrived of the request body."""
        if body and not self.over:
            if self._unread:
                # Pieces are joined: a million pieces of one byte must not cost a million objects.
                if isinstance(self._unread, bytes):
                    self._unread = bytearray(self._unread)
                self._unread += body
            else:
                self._unread = body
        self.ended = ended
        self._wake()

    def end(self) -> None:
        """Nobody waits for more of this call: the answer is whole, or the client is gone."""
        self.over = True
        self._unread = b""
        self._on_left = None
        self._wake()

    def leave(self) -> None:
        """The client has left before it had the whole answer."""
        tell = self._on_left
        self.end()
        if tell is not None:
            tell()

    def when_left(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the client leaves; never once the answer is whole."""
        if self.over:
            tell()
        else:
            self._on_left = tell

    async def receive(self) -> Message:
        """Return what has arrived of the body, its end, or that the client left, as soon as it did."""
        while not self.over:
            if self._unread:
                body, self._unread = bytes(self._unread), b""
                self._connection.read_on()
                self._told_end = self.ended
                return {"type": "http.request", "body": body, "more_body": not self.ended}
            if self.ended and not self._told_end:
                self._told_end = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if self._must_continue:
                self._must_continue = False
                if self._answer is None:
                    self._connection.write(b"HTTP/1.1 100 \r\n\r\n")
            await self._more()
        return {"type": "http.disconnect"}

    async def _more(self) -> None:
        if self._waiter is None or self._waiter.done():
            self._waiter = asyncio.get_running_loop().create_future()
        # Shielded: of two who wait, one may be cancelled.
        await asyncio.shield(self._waiter)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # The answer.

    async def send(self, message: Message) -> None:
        """Send the answer's head or a piece of its body; waits while the client takes nothing."""
        if self.over:
            return  # the client left, or has all of it
        kind = message["type"]
        if kind == "http.response.body" and self._answer is not None:
            await self._send_body(
                self._answer, bytes(message.get("body", b"")), message.get("more_body", False)
            )
        elif kind == "http.response.start" and self._answer is None:
            self._start(message)
        else:
            raise RuntimeError(f"{kind} does not fit here")

    def _start(self, message: Message) -> None:
        request = self._request
        # A client that was not told to go on may send its body or not: nobody knows what comes next.
        undecided = self._must_continue and not self.ended
        self._answer = Answer(
            request.method,
            request.http_version,
            int(message["status"]),
            message.get("headers", ()),
            closes=undecided or not self._connection.may_stay_open(request),
        )
        self._unsent_head = self._answer.head
        # With the first piece of the body if that comes at once, and alone if it does not.
        asyncio.get_running_loop().call_soon(self._flush_head)

    def _flush_head(self) -> None:
        head, self._unsent_head = self._unsent_head, b""
        if head and not self.over:
            self._connection.write(head)

    async def _send_body(self, answer: Answer, body: bytes, more: bool) -> None:
        pieces = answer.frame(body, last=not more)
        if self._unsent_head:
            pieces = (self._unsent_head, *pieces)
            self._unsent_head = b""
        if pieces:
            self._connection.write(*pieces)
        if not more:
            self.end()
            self._connection.answered(self, stays_open=not answer.closes)
        if self._connection.writable is not None:
            await self._connection.drained()
