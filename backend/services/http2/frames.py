"""The frames of HTTP/2 as bytes: RFC 9113, sections 4 and 6."""

import struct
from collections.abc import Iterator, Mapping

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
FLOW_CONTROL_ERROR = 0x3
STREAM_CLOSED = 0x5
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8
COMPRESSION_ERROR = 0x9
ENHANCE_YOUR_CALM = 0xB

ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
# What either side may send before it was told otherwise: frames and windows.
FRAME_BYTES = 16_384
WINDOW_BYTES = 65_535
MOST_WINDOW_BYTES = 2**31 - 1
MOST_FRAME_BYTES = 2**24 - 1
LAST_STREAM = 2**31 - 1

Frame = tuple[int, int, int, bytes]

_HEAD = struct.Struct(">HBBBL")
_SETTING = struct.Struct(">HL")
_WORD = struct.Struct(">L")
_TWO_WORDS = struct.Struct(">LL")


class Violation(Exception):
    """The other side broke the protocol; `code` is the error that it is told."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        super().__init__(reason)


class Splitter:
    """Cuts what arrives into frames: kind, flags, stream, payload."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, arrived: bytes) -> Iterator[Frame]:
        """Yield the frames that are whole. Raises Violation for one that is larger than was allowed."""
        rest = self._rest
        if rest:
            rest += arrived
            arrived = bytes(rest)
            rest.clear()
        position, end = 0, len(arrived)
        while end - position >= HEAD_BYTES:
            high, low, kind, flags, stream = _HEAD.unpack_from(arrived, position)
            length = high << 8 | low
            if length > FRAME_BYTES:
                raise Violation(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            start = position + HEAD_BYTES
            if start + length > end:
                break
            position = start + length
            yield kind, flags, stream & LAST_STREAM, arrived[start:position]
        rest += arrived[position:]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    length = len(payload)
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def settings(values: Mapping[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values.items()))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, _WORD.pack(increment))


def reset(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, _WORD.pack(code))


def goaway(code: int) -> bytes:
    """A client names no stream: it accepts none."""
    return frame(GOAWAY, 0, 0, _TWO_WORDS.pack(0, code))


def headers(stream: int, block: bytes, flags: int, most: int) -> bytes:
    """Return a header block as one frame, or with continuations when it is larger than `most`."""
    if len(block) <= most:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    parts = [block[at : at + most] for at in range(0, len(block), most)]
    first = frame(HEADERS, flags, stream, parts[0])
    middle = [frame(CONTINUATION, 0, stream, part) for part in parts[1:-1]]
    return b"".join([first, *middle, frame(CONTINUATION, END_HEADERS, stream, parts[-1])])


def unpadded(flags: int, payload: bytes) -> bytes:
    """Return a payload without padding and priority. Raises Violation when they do not fit."""
    end = len(payload)
    start = 0
    if flags & PADDED:
        if not payload:
            raise Violation(FRAME_SIZE_ERROR, "padding without its length")
        start, end = 1, end - payload[0]
    if flags & PRIORITIZED:
        start += 5
    if start > end:
        raise Violation(PROTOCOL_ERROR, "more padding than frame")
    return payload[start:end]


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return settings in their order. Raises Violation for values that RFC 9113 forbids a server."""
    if len(payload) % _SETTING.size:
        raise Violation(FRAME_SIZE_ERROR, "settings cut off")
    values = [(code, value) for code, value in _SETTING.iter_unpack(payload)]
    for code, value in values:
        if code == ENABLE_PUSH and value:
            raise Violation(PROTOCOL_ERROR, "a server that wants to be pushed to")
        if code == INITIAL_WINDOW_SIZE and value > MOST_WINDOW_BYTES:
            raise Violation(FLOW_CONTROL_ERROR, "a window over 2^31-1")
        if code == MAX_FRAME_SIZE and not FRAME_BYTES <= value <= MOST_FRAME_BYTES:
            raise Violation(PROTOCOL_ERROR, f"frames of {value} bytes")
    return values


def parse_word(payload: bytes) -> int:
    """Return the one 32-bit number of an RST_STREAM or WINDOW_UPDATE. Raises Violation."""
    if len(payload) != _WORD.size:
        raise Violation(FRAME_SIZE_ERROR, f"{len(payload)} bytes instead of 4")
    return int(_WORD.unpack(payload)[0])


def parse_goaway(payload: bytes) -> int:
    """Return the last stream that the other side looked at. Raises Violation."""
    if len(payload) < _TWO_WORDS.size:
        raise Violation(FRAME_SIZE_ERROR, "GOAWAY cut off")
    return int(_TWO_WORDS.unpack_from(payload)[0]) & LAST_STREAM
