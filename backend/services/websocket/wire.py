"""One side of a relay on a TCP connection: frames in and out, paused and resumed by the other side."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from backend.services.websocket import frames
from backend.services.websocket.frames import Frame
from backend.services.websocket.reader import FrameReader

if TYPE_CHECKING:
    from backend.services.websocket.relay import Relay

# Written and not taken yet, before the other side is read no further, and where that goes on.
HIGH_WATER_BYTES = 128 * 1024
LOW_WATER_BYTES = 32 * 1024


class Wire(asyncio.Protocol):
    """A peer on a connection of its own; takes it over once the handshake is done.

    `masks`: the gateway is the client here, and what it says itself is masked.
    """

    def __init__(self, transport: asyncio.Transport, most_bytes: int, *, masks: bool) -> None:
        self._transport = transport
        self._reader = FrameReader(masked=not masks, most_bytes=most_bytes)
        self._masks = masks
        self._relay: Relay | None = None
        self._paused = False  # by the relay
        self._busy = False  # with frames that were read already
        self._turn: asyncio.Handle | None = None
        self._stopped = False  # being read
        self._lingers = False
        self._early = b""
        self.gone = False

    def begin(self, relay: "Relay") -> None:
        """From now on tell `relay` what arrives, what came with the handshake first."""
        self._relay = relay
        early, self._early = self._early, b""
        if self.gone or self._transport.is_closing():
            relay.lost(self)
            return
        self._transport.set_write_buffer_limits(HIGH_WATER_BYTES, LOW_WATER_BYTES)
        self.resume()
        if early:
            self.data_received(early)

    def take_over(self, early: bytes, *, paused: bool) -> None:
        """Become the protocol of the connection; `early` was read of it already."""
        self._early = early
        self._stopped = self._paused = paused
        self._transport.set_protocol(self)

    # What the relay asks for.

    @property
    def unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    def pass_on(self, passed: Sequence[Frame]) -> None:
        if not self._transport.is_closing():
            self._transport.write(
                passed[0].wire if len(passed) == 1 else b"".join([frame.wire for frame in passed])
            )

    def close(self, code: int, reason: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(frames.close_frame(code, reason, masks=self._masks))

    def finish(self) -> None:
        """Close the connection behind what was written.

        Whoever broke the rules may still be sending: closed at once, the connection would be reset, and the
        Close frame lost. What comes is dropped until the peer closes, or the relay's time is up.
        """
        if self._reader.violation is None or self._lingers:
            self._transport.close()
            return
        self._lingers = True
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def abort(self) -> None:
        self._transport.abort()

    def pause(self) -> None:
        self._paused = True
        self._read_or_not()

    def resume(self) -> None:
        self._paused = False
        self._read_or_not()

    async def aclose(self) -> None:
        """Nothing but the connection is held, and the relay ends it."""

    # What the event loop calls.

    def data_received(self, data: bytes) -> None:
        if self._relay is None:
            self._early += data
            self.pause()
            return
        found = self._reader.feed(data)
        if found:
            self._relay.arrived(self, found)
        if self._reader.violation is not None:
            self._relay.violated(self, self._reader.violation)
        elif self._reader.more:
            self._busy = True
            self._read_or_not()

    def _go_on(self) -> None:
        """Take the next of many frames that came together, now that others had their turn."""
        self._turn = None
        if self._paused or self.gone:
            return  # `resume` takes another turn
        self._busy = False
        self.data_received(b"")
        self._read_or_not()

    def _read_or_not(self) -> None:
        if self._busy and not self._paused and self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._go_on)
        stop = self._paused or self._busy
        if stop != self._stopped and not self._transport.is_closing():
            self._stopped = stop
            (self._transport.pause_reading if stop else self._transport.resume_reading)()

    def eof_received(self) -> None:
        if self._relay is not None:
            self._relay.left(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if self._relay is not None:
            self._relay.lost(self)

    def pause_writing(self) -> None:
        if self._relay is not None:
            self._relay.blocked(self)

    def resume_writing(self) -> None:
        if self._relay is not None:
            self._relay.freed(self)

    def __repr__(self) -> str:
        peer = cast(object, self._transport.get_extra_info("peername"))
        state = "gone" if self.gone else "paused" if self._paused else "open"
        return f"<Wire {peer} {state}>"
