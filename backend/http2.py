"""Hypercorn's HTTP/2 with one thing put right: an answer that breaks off resets its stream.

Hypercorn 0.18 forgets such a stream without a word, and its client waits for the rest for ever. RFC 9113,
section 8.1: an answer that cannot be completed ends with RST_STREAM.
"""

from contextlib import suppress

import hypercorn.protocol
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn.protocol.events import Event, StreamClosed
from hypercorn.protocol.h2 import H2Protocol


class ResettingH2Protocol(H2Protocol):
    """Tells the client of every stream that the application left unfinished."""

    async def stream_send(self, event: Event) -> None:
        await super().stream_send(event)
        if isinstance(event, StreamClosed):
            await self._reset_unfinished(event.stream_id)

    async def _reset_unfinished(self, stream_id: int) -> None:
        unsent = self.stream_buffers.get(stream_id)
        if unsent is None or unsent.complete:
            return
        with suppress(ProtocolError):  # the client may have ended it, or the whole connection
            self.connection.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
        await self._flush()
        # The sending task finds the stream closed and forgets it.
        await unsent.close()
        self.priority.unblock(stream_id)
        await self.has_data.set()


def install() -> None:
    """Let Hypercorn use it for every connection that is made from now on."""
    hypercorn.protocol.H2Protocol = ResettingH2Protocol  # type: ignore[attr-defined]
