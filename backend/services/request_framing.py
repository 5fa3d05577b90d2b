"""A request to an upstream as bytes: its head, and a body framed as the head announced. No I/O."""

from collections.abc import AsyncIterable, Sequence

from backend.errors import BadRequest, InternalError
from backend.services.headers import Pair, content_length

Body = bytes | AsyncIterable[bytes] | None

_BODILESS_METHODS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE"})


class Framed:
    """Frames a streamed body as its head announced: by Content-Length, or in chunks."""

    def __init__(self, length: int | None) -> None:
        self._left = length

    def frame(self, chunk: bytes) -> bytes:
        if self._left is None:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        self._left -= len(chunk)
        if self._left < 0:
            raise BadRequest("The request body is longer than it was declared.")
        return chunk

    def end(self) -> bytes:
        if self._left:
            raise BadRequest("The request body is shorter than it was declared.")
        return b"0\r\n\r\n" if self._left is None else b""


def request_head(
    method: str, target: bytes, authority: bytes, headers: Sequence[Pair], body: Body
) -> tuple[bytes, int | None]:
    """Return a request head whose framing fits the body, and the length it declares.

    Raises InternalError for a header that would break the head apart.
    """
    lines = [method.encode("ascii"), b" ", target, b" HTTP/1.1\r\nhost: ", authority]
    for name, value in headers:
        if b"\n" in value or b"\r" in value or b"\x00" in value:
            raise InternalError
        lines += (b"\r\n", name, b": ", value)
    length = content_length(headers)
    if length is None:
        if isinstance(body, bytes) or (body is None and method not in _BODILESS_METHODS):
            length = len(body or b"")
            lines.append(b"\r\ncontent-length: %d" % length)
        elif body is not None:
            lines.append(b"\r\ntransfer-encoding: chunked")
    lines.append(b"\r\n\r\n")
    return b"".join(lines), length
