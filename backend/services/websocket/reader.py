"""Takes a byte stream apart into frames and refuses what RFC 6455 does. No I/O.

A frame of up to WHOLE_BYTES is given as it arrived, its mask included: nothing is taken off that would have
to be put on again. Of a larger one every piece that arrives is given at once as a fragment of its own
(section 5.4), so that a large message needs no memory, and a Close frame always has a place between two.
"""

import codecs

from backend.services.websocket import frames
from backend.services.websocket.frames import (
    CLOSE,
    CONTINUATION,
    NOT_CONSISTENT,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    Frame,
    Violation,
)

# What a side may hold of a frame that is not whole.
WHOLE_BYTES = 64 * 1024
# A read of 256 KiB may hold 40,000 empty frames, which take a fifth of a second: so many at a time.
MOST_FRAMES = 512

_DATA = frozenset({CONTINUATION, TEXT, frames.BINARY})
_CONTROL = frozenset({CLOSE, frames.PING, PONG})


class FrameReader:
    """Reads what one peer sends. After `violation` is set, or a Close frame, nothing more is read.

    `masked`: the peer is a client. `most_bytes` limits a message, all its fragments together.
    """

    __slots__ = (
        "_at",
        "_begun",
        "_final",
        "_key",
        "_left",
        "_masked",
        "_message_bytes",
        "_most_bytes",
        "_need",
        "_opcode",
        "_rest",
        "_text",
        "ended",
        "more",
        "violation",
    )

    def __init__(self, *, masked: bool, most_bytes: int) -> None:
        self._masked = masked
        self._most_bytes = most_bytes
        self._rest: bytearray | None = None
        self._need = 2  # bytes of the rest before another look is worth it
        self._at = 0
        self._begun = False  # a message whose last fragment is still to come
        self._message_bytes = 0
        self._text: codecs.IncrementalDecoder | None = None
        # A large frame that is given in pieces.
        self._left = 0
        self._opcode = CONTINUATION
        self._final = False
        self._key = b""
        self.ended = False
        self.violation: Violation | None = None
        self.more = False

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are there by now, MOST_FRAMES at most; then `more` says to ask again."""
        found: list[Frame] = []
        self.more = False
        if self.ended:
            return found
        buffer: bytes | bytearray = data
        if self._rest is not None:
            self._rest += data
            if len(self._rest) < self._need:
                return found
            buffer = self._rest
        self._at = 0
        try:
            while not self.ended and (frame := self._next(buffer)) is not None:
                found.append(frame)
                if len(found) == MOST_FRAMES:
                    self._need, self.more = 0, True
                    break
        except Violation as violation:
            self.violation = violation
            self.ended = True
        self._keep(buffer)
        return found

    def _keep(self, buffer: bytes | bytearray) -> None:
        if self.ended or self._at == len(buffer):
            self._rest = None
        elif buffer is self._rest:
            del self._rest[: self._at]
        else:
            self._rest = bytearray(buffer[self._at :])

    def _next(self, buffer: bytes | bytearray) -> Frame | None:
        if self._left:
            return self._piece(buffer)
        start, there = self._at, len(buffer) - self._at
        self._need = 2
        if there < 2:
            return None
        opcode, final = buffer[start] & 0x0F, buffer[start] >= 0x80
        self._check(buffer[start], buffer[start + 1])
        head_bytes, length = self._measure(buffer, start, there)
        if not head_bytes:
            return None
        if opcode in _DATA and self._message_bytes + length > self._most_bytes:
            raise Violation(TOO_BIG, "the message is too big")
        if length > WHOLE_BYTES:
            return self._begin_large(buffer, opcode, final, start + head_bytes, length)
        self._need = head_bytes + length
        if there < self._need:
            return None
        self._at = start + self._need
        key = bytes(buffer[start + head_bytes - 4 : start + head_bytes]) if self._masked else b""
        wire = bytes(memoryview(buffer)[start : self._at])
        frame = Frame(opcode, final, wire, head_bytes, key)
        self._look(frame)
        return frame

    def _check(self, first: int, second: int) -> None:
        """Refuse a head by its first two bytes (sections 5.1, 5.2, 5.4, 5.5)."""
        opcode = first & 0x0F
        if first & 0x70:
            raise Violation(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode in _CONTROL:
            if first < 0x80 or second & 0x7F > frames.MOST_CONTROL_BYTES:
                raise Violation(PROTOCOL_ERROR, "a control frame is fragmented or too long")
        elif opcode not in _DATA:
            raise Violation(PROTOCOL_ERROR, "a reserved opcode")
        elif (opcode == CONTINUATION) != self._begun:
            raise Violation(PROTOCOL_ERROR, "a fragment out of turn")
        if (second >= 0x80) != self._masked:
            raise Violation(PROTOCOL_ERROR, "masked by the wrong side, or not by the right one")

    def _measure(self, buffer: bytes | bytearray, start: int, there: int) -> tuple[int, int]:
        """Return the lengths of head and payload, 0 for a head that is not whole."""
        length = buffer[start + 1] & 0x7F
        size = 0 if length < 126 else 2 if length == 126 else 8
        head_bytes = 2 + size + (4 if self._masked else 0)
        if there < head_bytes:
            self._need = head_bytes
            return 0, 0
        if size:
            length = int.from_bytes(buffer[start + 2 : start + 2 + size])
            if length < (126 if size == 2 else 1 << 16) or length >= 1 << 63:
                raise Violation(PROTOCOL_ERROR, "a length that is not the shortest")
        return head_bytes, length

    def _look(self, frame: Frame) -> None:
        """Note what a whole frame means for the ones that follow."""
        if frame.opcode >= CLOSE:
            if frame.opcode == CLOSE:
                frames.close_of(frame.payload)
                self.ended = True
            return
        if frame.opcode == TEXT or self._text is not None:
            self._check_text(frame)
        self._message_bytes = 0 if frame.final else self._message_bytes + frame.payload_bytes
        self._begun = not frame.final

    def _check_text(self, frame: Frame) -> None:
        try:
            if self._text is None:
                if frame.final:
                    frame.payload.decode("utf-8")
                    return
                self._text = codecs.getincrementaldecoder("utf-8")()
            self._text.decode(frame.payload, frame.final)
        except UnicodeDecodeError:
            raise Violation(NOT_CONSISTENT, "a text is no UTF-8") from None
        if frame.final:
            self._text = None

    def _begin_large(
        self, buffer: bytes | bytearray, opcode: int, final: bool, at: int, length: int
    ) -> Frame | None:
        self._opcode, self._final, self._left, self._at = opcode, final, length, at
        self._key = bytes(buffer[at - 4 : at]) if self._masked else b""
        return self._piece(buffer)

    def _piece(self, buffer: bytes | bytearray) -> Frame | None:
        """Return what is there of a large frame as a fragment of its own."""
        self._need = 1
        content = bytes(memoryview(buffer)[self._at : self._at + self._left])
        if not content:
            return None
        self._at += len(content)
        self._left -= len(content)
        key, final = self._key, self._final and not self._left
        start = frames.head(self._opcode, len(content), final=final, masks=self._masked) + key
        fragment = Frame(self._opcode, final, start + content, len(start), key)
        # The content stays as it was masked: the key of what follows begins where this one stopped.
        turn = len(content) % 4
        self._key = key[turn:] + key[:turn]
        self._opcode = CONTINUATION
        self._look(fragment)
        return fragment
