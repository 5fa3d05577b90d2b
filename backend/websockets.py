"""WebSockets of servers that speak ASGI: their handshake as HTTP, and their messages as a side of a relay.

The server of our own hands the connection over instead (backend/clients/upgrade.py). What ASGI has no words
for stays with the server here: it answers pings itself, and tells no reason of a close.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from backend.request_body import Message, Receive, Scope
from backend.services.headers import Pair
from backend.services.websocket import frames
from backend.services.websocket.frames import Frame, Violation
from backend.services.websocket.relay import Opened, Relay
from backend.services.websocket.wire import HIGH_WATER_BYTES, LOW_WATER_BYTES

Send = Callable[[Message], Awaitable[None]]

# Of an upstream's refusal; its page of an error fits.
REFUSAL_BYTES = 256 * 1024

_SCHEMES = {"ws": "http", "wss": "https"}


class Handshake:
    """A WebSocket scope as the HTTP request that it is: `scope`, `receive` and `send` for an exchange."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = scope.get("extensions") or {}
        self._may_refuse = "websocket.http.response" in extensions
        self._receive = receive
        self._send = send
        self._told = False
        self._relay: Relay | None = None
        self._stopping = False
        self._head: Message | None = None
        self._body = bytearray()
        self._refused = False
        self.scope: Scope = {
            **scope,
            "type": "http",
            "method": "GET",
            "scheme": _SCHEMES.get(scope.get("scheme", "ws"), "http"),
            # Who leaves before the answer is not noticed: `receive` belongs to the WebSocket.
            "extensions": {**extensions, "departure": lambda _tell: None, "accept": self.accept},
        }

    async def receive(self) -> Message:
        """There is no body."""
        if self._told:
            return {"type": "http.disconnect"}
        self._told = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """Refuse the handshake by an answer, or by 403 where the server knows no other.

        Granian 2.8 takes such an answer in one piece.
        """
        if self._head is None:
            self._head = message
            return
        self._body += message.get("body", b"")
        if len(self._body) > REFUSAL_BYTES:
            self._may_refuse = False
        if message.get("more_body", False) or self._refused:
            return
        self._refused = True
        if not self._may_refuse:
            await self._send({"type": "websocket.close", "code": frames.POLICY, "reason": ""})
            return
        await self._send({**self._head, "type": "websocket.http.response.start"})
        await self._send({"type": "websocket.http.response.body", "body": bytes(self._body)})

    def stop(self) -> None:
        """The server stops: the client may come back, to another one."""
        self._stopping = True
        if self._relay is not None:
            self._relay.end(frames.GOING_AWAY, "the server stops")

    async def accept(self, opened: Opened, headers: list[Pair]) -> "MessageSide":
        self._relay = opened.relay
        if self._stopping:
            self.stop()
        await self._send({"type": "websocket.accept", "subprotocol": opened.protocol, "headers": headers})
        return MessageSide(self._receive, self._send, opened.relay.limits.message_bytes)


class MessageSide:
    """A client whose server reads and writes whole messages."""

    def __init__(self, receive: Receive, send: Send, most_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._most_bytes = most_bytes
        self._relay: Relay | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._readable = asyncio.Event()
        self._readable.set()
        self._fragments: list[bytes] = []
        self._opcode = frames.BINARY
        self._outgoing: deque[Message] = deque()
        self._there = asyncio.Event()
        self._blocked = False
        self.unsent = 0
        self.gone = False

    def begin(self, relay: Relay) -> None:
        self._relay = relay
        for work in (self._reading(relay), self._writing(relay)):
            self._tasks.append(asyncio.get_running_loop().create_task(self._until_lost(work, relay)))

    async def aclose(self) -> None:
        """End both tasks and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What the relay asks for.

    def pass_on(self, passed: Sequence[Frame]) -> None:
        for frame in passed:
            if frame.opcode == frames.PING:
                self._answer_ping(frame.payload)
            elif frame.opcode != frames.PONG:
                self._take(frame)

    def close(self, code: int, reason: bytes) -> None:
        code = frames.NORMAL if code == frames.NO_CODE else code
        self._put({"type": "websocket.close", "code": code, "reason": reason.decode("utf-8")}, 0)

    def finish(self) -> None:
        """What was told last ends the connection."""

    def abort(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._lost()

    def pause(self) -> None:
        self._readable.clear()

    def resume(self) -> None:
        self._readable.set()

    def _answer_ping(self, content: bytes) -> None:
        """An upstream's ping cannot be passed on: that the client is there is known here."""
        if self._relay is not None and self._readable.is_set():
            self._relay.arrived(self, (_made(frames.PONG, content),))

    def _take(self, frame: Frame) -> None:
        if frame.opcode != frames.CONTINUATION:
            self._opcode = frame.opcode
        self._fragments.append(frame.payload)
        self.unsent += frame.payload_bytes
        if frame.final:
            content = self._fragments[0] if len(self._fragments) == 1 else b"".join(self._fragments)
            self._fragments.clear()
            text = self._opcode == frames.TEXT
            key, value = ("text", content.decode("utf-8")) if text else ("bytes", content)
            self._put({"type": "websocket.send", key: value}, len(content))

    def _put(self, message: Message, size: int) -> None:
        self._outgoing.append({**message, "size": size})
        self._there.set()
        if size and not self._blocked and self.unsent > HIGH_WATER_BYTES and self._relay is not None:
            self._blocked = True
            self._relay.blocked(self)

    # Its two tasks.

    async def _until_lost(self, work: Coroutine[Any, Any, None], relay: Relay) -> None:
        """A server says in its own way, by some exception, that nobody is there any more."""
        try:
            await work
        except Exception:
            self._lost()

    async def _reading(self, relay: Relay) -> None:
        while True:
            message = await self._receive()
            if message["type"] != "websocket.receive":
                break
            opcode, content = _content(message)
            if len(content) > self._most_bytes:
                relay.violated(self, Violation(frames.TOO_BIG, "the message is too big"))
                continue
            relay.arrived(self, (_made(opcode, content),))
            await self._readable.wait()
        code = message.get("code") or frames.NO_CODE
        if code != frames.LOST:
            relay.closed(self, code if frames.may_be_sent(code) else frames.NO_CODE, b"")
        self._lost()

    async def _writing(self, relay: Relay) -> None:
        while True:
            while self._outgoing:
                message = self._outgoing.popleft()
                size = message.pop("size")
                if message["type"] == "websocket.close":
                    self._tasks[0].cancel()  # Granian 2.8 finishes no close while it is asked for messages
                await self._send(message)
                self.unsent -= size
                if self._blocked and self.unsent <= LOW_WATER_BYTES:
                    self._blocked = False
                    relay.freed(self)
                if message["type"] == "websocket.close":
                    # The server waits for the client's answer, and tells nobody of it.
                    relay.closed(self, message["code"], b"")
                    self._lost()
                    return
            self._there.clear()
            await self._there.wait()

    def _lost(self) -> None:
        if not self.gone:
            self.gone = True
            if self._relay is not None:
                self._relay.lost(self)

    def __repr__(self) -> str:
        return f"<MessageSide {'gone' if self.gone else 'open'}, {self.unsent} bytes unsent>"


def _content(message: Message) -> tuple[int, bytes]:
    text = message.get("text")
    if text is not None:
        return frames.TEXT, text.encode("utf-8")
    return frames.BINARY, bytes(message.get("bytes") or b"")


def _made(opcode: int, content: bytes) -> Frame:
    """Return a frame for the upstream, masked with a key of its own."""
    wire = frames.frame(opcode, content, masks=True)
    start = len(wire) - len(content)
    return Frame(opcode, True, wire, start, wire[start - frames.KEY_BYTES : start])
