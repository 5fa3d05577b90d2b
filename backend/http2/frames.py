"""HTTP/2 frames as they stand on the wire (RFC 9113, sections 4, 6 and 7)."""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
# The least size that every endpoint takes. Larger frames would only make one stream hold up the others.
FRAME_BYTES = 16_384
# Frames read in one turn of the loop, some 3 ms: a read may hold 7,000 tiny ones.
FRAMES_A_TURN = 500
LARGEST_FRAME_BYTES = 2**24 - 1
LARGEST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)

ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

_HEADER = struct.Struct(">HBBBL")
_LONG = struct.Struct(">L")
_SETTING = struct.Struct(">HL")


class Code(IntEnum):
    """Why a stream or a connection ended (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6
    ENABLE_CONNECT_PROTOCOL = 0x8


class Fault(Exception):
    """The client broke a rule; `str()` says which, for the GOAWAY frame."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code


class ConnectionFault(Fault):
    """It costs the connection (RFC 9113, section 5.4.1)."""


class StreamFault(Fault):
    """It costs one stream (RFC 9113, section 5.4.2)."""

    def __init__(self, stream_id: int, code: Code, why: str) -> None:
        super().__init__(code, why)
        self.stream_id = stream_id


class Frame(NamedTuple):
    type: int
    flags: int
    stream_id: int
    payload: bytes


# Type -> name, whether it belongs to a stream (None: either), least length, greatest length of its payload.
# PRIORITY is not here: a wrong length costs its stream alone.
_SHAPES: dict[int, tuple[str, bool | None, int, int]] = {
    DATA: ("DATA", True, 0, FRAME_BYTES),
    HEADERS: ("HEADERS", True, 0, FRAME_BYTES),
    PRIORITY: ("PRIORITY", True, 0, FRAME_BYTES),
    RST_STREAM: ("RST_STREAM", True, 4, 4),
    SETTINGS: ("SETTINGS", False, 0, FRAME_BYTES),
    PING: ("PING", False, 8, 8),
    GOAWAY: ("GOAWAY", False, 8, FRAME_BYTES),
    WINDOW_UPDATE: ("WINDOW_UPDATE", None, 4, 4),
    CONTINUATION: ("CONTINUATION", True, 0, FRAME_BYTES),
}


def check_shape(frame: Frame) -> None:
    """Check what section 6 asks of a frame whatever the streams' states. Raises ConnectionFault."""
    name, of_a_stream, least, most = _SHAPES[frame.type]
    if of_a_stream is not None and of_a_stream != (frame.stream_id != 0):
        where = "stream 0" if of_a_stream else "a stream"
        raise ConnectionFault(Code.PROTOCOL_ERROR, f"{name} on {where}")
    if not least <= len(frame.payload) <= most:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"{name} of a wrong size")


class FrameReader:
    """Cuts what arrives into frames; checks the preface and each frame's size before its payload is there."""

    def __init__(self) -> None:
        self._rest = b""
        self._preface = PREFACE
        # Whether feed() stopped before the end of what is there, to be called again with nothing.
        self.more = False

    @property
    def amid_control(self) -> bool:
        """Whether something has begun to arrive that is no DATA frame: it is short and takes no time."""
        if self._preface:
            return True
        return bool(self._rest) and (len(self._rest) < HEADER_BYTES or self._rest[3] != DATA)

    def feed(self, arrived: bytes) -> Iterator[Frame]:
        """Yield whole frames. Raises ConnectionFault at a wrong preface and at a frame that is too large."""
        chunk = self._rest + arrived if self._rest else arrived
        self._rest = b""
        at = 0
        if self._preface:
            at = min(len(self._preface), len(chunk))
            if not self._preface.startswith(chunk[:at]):
                raise ConnectionFault(Code.PROTOCOL_ERROR, "no HTTP/2 preface")
            self._preface = self._preface[at:]
        count = 0
        while len(chunk) - at >= HEADER_BYTES and count < FRAMES_A_TURN:
            count += 1
            high, low, kind, flags, stream_id = _HEADER.unpack_from(chunk, at)
            length = high << 8 | low
            if length > FRAME_BYTES:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "frame larger than SETTINGS_MAX_FRAME_SIZE")
            end = at + HEADER_BYTES + length
            if end > len(chunk):
                break
            yield Frame(kind, flags, stream_id & 0x7FFFFFFF, chunk[at + HEADER_BYTES : end])
            at = end
        self._rest = chunk[at:]
        self.more = count == FRAMES_A_TURN


def header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    return _HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return header(kind, flags, stream_id, len(payload)) + payload


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, long(increment))


def long(value: int) -> bytes:
    return _LONG.pack(value)


def read_long(payload: bytes, at: int = 0) -> int:
    """Return 31 bits: the highest is reserved wherever such a number stands."""
    return int(_LONG.unpack_from(payload, at)[0]) & 0x7FFFFFFF


def settings(values: dict[Setting, int]) -> bytes:
    payload = b"".join(_SETTING.pack(name, value) for name, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    yield from _SETTING.iter_unpack(payload)


def goaway(last_stream_id: int, code: Code, why: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, long(last_stream_id) + long(code) + why.encode("ascii", "replace"))


def unpadded(frame: Frame, *, before: int = 0) -> bytes:
    """Return a payload without its padding and the `before` octets of priority that follow its length."""
    payload, start, padding = frame.payload, before, 0
    if frame.flags & PADDED:
        if not payload:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "padded frame without a padding length")
        padding, start = payload[0], before + 1
    if len(payload) < start:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "frame too short for its fields")
    if padding > len(payload) - start:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[start : len(payload) - padding]
