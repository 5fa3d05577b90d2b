"""Field blocks: gathered from HEADERS and CONTINUATION, unpacked by HPACK (RFC 9113, section 4.3)."""

from collections.abc import Iterable
from dataclasses import dataclass

from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.hpack import Decoder

from backend.http2 import frames
from backend.http2.frames import Code, ConnectionFault, Frame
from backend.http2.heads import Pair

# Frames of one block; with HPACK's whole state at stake, what is beyond costs the connection.
BLOCK_FRAMES = 32
# A list of this many times the advertised size is still decoded: it gets a 431, and its neighbours live on.
DECODED_TIMES = 4


@dataclass(frozen=True, slots=True)
class FieldBlock:
    """A whole block, and what its HEADERS said beside it."""

    stream_id: int
    fields: Iterable[Pair]
    ended: bool
    depends_on: int | None


class FieldBlocks:
    """Takes one block at a time; `open` while it is not whole."""

    def __init__(self, head_bytes: int) -> None:
        self._most_bytes = head_bytes * DECODED_TIMES
        self._decoder = Decoder(max_header_list_size=self._most_bytes)
        self._fragments: list[bytes] = []
        self._bytes = 0
        self._first: Frame | None = None

    @property
    def open(self) -> bool:
        return self._first is not None

    def begin(self, frame: Frame) -> FieldBlock | None:
        """Take HEADERS; return the block if that is all of it. Raises ConnectionFault."""
        self._first = frame
        self._fragments = []
        self._bytes = 0
        priority = 5 if frame.flags & frames.WITH_PRIORITY else 0
        return self._add(frames.unpadded(frame, before=priority), frame.flags)

    def go_on(self, frame: Frame) -> FieldBlock | None:
        """Take CONTINUATION; return the block if it is whole now. Raises ConnectionFault."""
        if self._first is None or frame.stream_id != self._first.stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION without a head before it")
        return self._add(frame.payload, frame.flags)

    def _add(self, fragment: bytes, flags: int) -> FieldBlock | None:
        self._fragments.append(fragment)
        self._bytes += len(fragment)
        if len(self._fragments) > BLOCK_FRAMES or self._bytes > self._most_bytes:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a head that does not end")
        first = self._first
        if first is None or not flags & frames.END_HEADERS:
            return None
        self._first = None
        depends = frames.read_long(frames.unpadded(first)) if first.flags & frames.WITH_PRIORITY else None
        ended = bool(first.flags & frames.END_STREAM)
        return FieldBlock(first.stream_id, self._decoded(), ended, depends)

    def _decoded(self) -> Iterable[Pair]:
        try:
            return self._decoder.decode(b"".join(self._fragments), raw=True)
        except OversizedHeaderListError as exc:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a head that unpacks to too much") from exc
        except HPACKError as exc:
            raise ConnectionFault(Code.COMPRESSION_ERROR, "a field block that cannot be decoded") from exc
