"""What merely passing costs: `python -m benchmarks.peers.bare_relay PORT UPSTREAM`.

Octets are handed on as they come, by two protocols on uvloop; nothing is read, checked, timed or kept. No
program in Python that wakes for each piece can cost less.
"""

import asyncio
import sys
from typing import cast
from urllib.parse import urlsplit

import uvloop


class Side(asyncio.Protocol):
    """One of two connections; what it receives goes to the other one, or waits for it."""

    def __init__(self, other: "Side | None" = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's derives from no class of asyncio
        if self.other is not None and self.other._waiting:
            self.transport.write(self.other._waiting)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self._waiting += data

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def serve(port: int, upstream: str) -> None:
    loop = asyncio.get_running_loop()
    place = urlsplit(upstream)
    connecting: set[asyncio.Task[object]] = set()

    def accepted() -> Side:
        client = Side()
        client.other = Side(client)
        other = client.other
        task: asyncio.Task[object] = loop.create_task(
            loop.create_connection(lambda: other, place.hostname or "", place.port or 80)
        )
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return client

    server = await loop.create_server(accepted, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
