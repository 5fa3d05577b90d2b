"""A WebSocket's handshake on a client's connection, and the connection from then on."""

import asyncio
from typing import TYPE_CHECKING

from backend.clients.answer import switched
from backend.services.headers import Pair
from backend.services.websocket import handshake
from backend.services.websocket.frames import GOING_AWAY
from backend.services.websocket.relay import Opened
from backend.services.websocket.wire import Wire

if TYPE_CHECKING:
    from backend.clients.connection import Connection


class ClientWire(Wire):
    """The client's side of a relay; its connection stays known to the server that accepted it."""

    def __init__(self, connection: "Connection", transport: asyncio.Transport, most_bytes: int) -> None:
        super().__init__(transport, most_bytes, masks=False)
        self._connection = connection

    def pause(self) -> None:
        super().pause()
        self._connection.note_paused(paused=True)

    def resume(self) -> None:
        super().resume()
        self._connection.note_paused(paused=False)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connection.forget()

    def stop(self) -> None:
        """The server stops: the client may come back, to another one."""
        if self._relay is not None:
            self._relay.end(GOING_AWAY, "the server stops")


def upgrade_head(opened: Opened, headers: list[Pair]) -> bytes:
    """Return the head of the 101 that accepts a handshake. Raises ValueError for headers that break it."""
    lines = [*headers, (b"sec-websocket-accept", handshake.accept(opened.key))]
    if opened.protocol is not None:
        lines.append((b"sec-websocket-protocol", opened.protocol.encode("ascii")))
    return switched(lines)
