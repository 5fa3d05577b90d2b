"""An upstream inside the load's own loop: so many places, so long for each call, dead when told to be."""

import asyncio
from collections import deque
from typing import cast

ANSWER = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
BODY = b'{"avatars":{}}'
BACKLOG = 2048


class Service:
    """Listens on a free loopback port between `start` and `stop`.

    `mode` is "answers", "busy" (503), "resets" or "hangs"; `asked` counts requests, or connections where none
    is read; `most` is the highest number of calls that were here at once.
    """

    def __init__(self, places: int = 1_000_000, seconds: float = 0.0) -> None:
        self.mode = "answers"
        self.seconds = seconds
        self.asked = 0
        self.here = 0
        self.most = 0
        self.port = 0
        self._free = places
        self._queue: deque[Talk] = deque()
        self._talks: set[Talk] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; at the port of before, if there was one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Talk(self), "127.0.0.1", self.port, backlog=BACKLOG, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections, and end those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for talk in list(self._talks):
            talk.end()
        await asyncio.sleep(0)

    def joined(self, talk: "Talk") -> None:
        if self.mode == "resets":
            self.asked += 1
            talk.end()
        else:
            self._talks.add(talk)

    def left(self, talk: "Talk") -> None:
        self._talks.discard(talk)

    def arrived(self, talk: "Talk") -> None:
        self.asked += 1
        if self.mode == "resets":
            talk.end()
        elif self.mode == "busy":
            talk.answer(b"503 Busy")
        elif self.mode == "answers":
            self.here += 1
            self.most = max(self.most, self.here)
            self._queue.append(talk)
            self._work()

    def _work(self) -> None:
        while self._free and self._queue:
            self._free -= 1
            asyncio.get_running_loop().call_later(self.seconds, self._done, self._queue.popleft())

    def _done(self, talk: "Talk") -> None:
        self._free += 1
        self.here -= 1
        talk.answer(b"200 OK")
        self._work()


class Talk(asyncio.Protocol):
    """One connection to the service; `request` is the head of its latest request."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._head = b""
        self.request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from no class of asyncio
        self._service.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.left(self)

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            self.request, self._head = self._head, b""
            self._service.arrived(self)

    def answer(self, status: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(ANSWER % (status, len(BODY), BODY))

    def end(self) -> None:
        self._transport.abort()
