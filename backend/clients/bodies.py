"""Where a request body ends: by its length, or in chunks. No I/O, nothing kept but what is incomplete."""

import re
from typing import Protocol

from backend.clients.head import FIELD, Refused

# RFC 9112, section 7.1: hexadecimal digits and nothing else, extensions ignored.
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
CHUNK_LINE_BYTES = 1024
TRAILER_BYTES = 16 * 1024
# Lines around chunks may be this much more than what they carry; honest ones never are.
MOST_OVERHEAD_BYTES = 16 * 1024
_LINE_FOR_FREE = 16


class Framing(Protocol):
    """Takes a body apart as it arrives; `ended` once it is whole."""

    ended: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what `data` holds of the body, and what comes after its end. Raises Refused."""


class Sized:
    """A body of so many bytes."""

    __slots__ = ("_left", "ended")

    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        if len(data) < self._left:
            self._left -= len(data)
            return data, b""
        self.ended = True
        return data[: self._left], data[self._left :]


class Chunked:
    """A body in chunks; its trailers are checked and dropped."""

    __slots__ = ("_left", "_overhead", "_rest", "_trailers", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._left = 0  # of this chunk and the CR and LF after it
        self._rest = b""  # a line that is not whole
        self._overhead = 0
        self._trailers: int | None = None  # bytes so far, once the last chunk was there

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        data = self._rest + data
        body: list[bytes] = []
        at = 0
        while at < len(data) and not self.ended:
            if self._left > 2:
                at = self._take(data, at, body)
            elif self._left:
                at = self._end_chunk(data, at)
            else:
                after = data.find(b"\r\n", at) + 2
                if after < 2:
                    self._check_unended(data, at)
                    break
                self._line(data[at:after])
                at = after
        self._rest = b"" if self.ended else data[at:]
        return b"".join(body), data[at:] if self.ended else b""

    def _take(self, data: bytes, at: int, body: list[bytes]) -> int:
        piece = data[at : at + self._left - 2]
        body.append(piece)
        self._left -= len(piece)
        return at + len(piece)

    def _end_chunk(self, data: bytes, at: int) -> int:
        wanted = b"\r\n"[2 - self._left :]
        found = data[at : at + self._left]
        if not wanted.startswith(found):
            raise Refused
        self._left -= len(found)
        return at + len(found)

    def _line(self, line: bytes) -> None:
        if self._trailers is not None:
            self._trailer(line)
            return
        match = _CHUNK.fullmatch(line)
        if match is None or len(line) > CHUNK_LINE_BYTES:
            raise Refused
        size = int(match[1], 16)
        self._overhead = max(0, self._overhead + len(line) - _LINE_FOR_FREE - 2 * size)
        if self._overhead > MOST_OVERHEAD_BYTES:
            raise Refused
        if size:
            self._left = size + 2
        else:
            self._trailers = 0

    def _trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self.ended = True
            return
        self._trailers = (self._trailers or 0) + len(line)
        if self._trailers > TRAILER_BYTES:
            raise Refused(431)
        if not FIELD.fullmatch(line):
            raise Refused

    def _check_unended(self, data: bytes, at: int) -> None:
        """A line without its end may neither grow for ever nor hold a bare CR or LF."""
        line = data[at:]
        if len(line) > CHUNK_LINE_BYTES + (self._trailers is not None) * TRAILER_BYTES:
            raise Refused(400 if self._trailers is None else 431)
        if b"\n" in line or b"\r" in line[:-1]:
            raise Refused


def framing_of(length: int | None) -> Framing | None:
    """Return how to find the end of a body of so many bytes (None: in chunks), or None when there is none."""
    if length is None:
        return Chunked()
    return Sized(length) if length else None
