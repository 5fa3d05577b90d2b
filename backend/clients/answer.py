"""The answer to one request as bytes: its head, and the framing of its body. No I/O."""

import json
from collections.abc import Iterable
from functools import lru_cache
from uuid import uuid4

from backend.clients.head import FIELD
from backend.services.headers import Pair

_BODILESS = frozenset({204, 304})
_LAST_CHUNK = b"0\r\n\r\n"
_REASONS = {
    400: ("bad_request", "The request is malformed."),
    408: ("request_stalled", "The request did not arrive in time."),
    414: ("target_too_long", "The address of this request is too long."),
    431: ("head_too_large", "The header of this request is too large."),
    500: ("internal", "The gateway failed to answer this call."),
    505: ("version_not_supported", "This version of HTTP is not spoken here."),
}


class Answer:
    """Frames an answer by its Content-Length, in chunks, or by the end of the connection (HTTP/1.0).

    `closes`: no request comes after this answer. `cut_looks_whole`: only a reset tells the client that
    something is missing.
    """

    __slots__ = ("_bodiless", "_chunked", "_left", "closes", "cut_looks_whole", "head")

    def __init__(
        self, method: str, http_version: str, status: int, headers: Iterable[Pair], *, closes: bool
    ) -> None:
        """Raises ValueError for headers that would break the head apart or frame the body wrongly."""
        if not 200 <= status <= 999:
            raise ValueError(f"{status} is no final status")
        lines = [_status_line(status)]
        length: int | None = None
        line_ends = 2  # of the status line and the empty line
        for name, value in headers:
            known = _checked_name(name)
            if known == b"transfer-encoding":
                continue  # the framing is decided here
            if known == b"connection":
                closes = closes or b"close" in value.lower()
                continue
            if known == b"content-length":
                length = _length(value, length)
            lines += (name, b": ", value, b"\r\n")
            line_ends += 1
        self._bodiless = method == "HEAD" or status in _BODILESS
        self._left = None if self._bodiless else length
        self._chunked = not self._bodiless and length is None and http_version == "1.1"
        self.cut_looks_whole = not self._bodiless and length is None and not self._chunked
        self.closes = closes or self.cut_looks_whole
        lines.append(b"\r\n")
        self.head = _joined(lines, line_ends)
        if self._chunked:
            self._add(b"transfer-encoding: chunked")
        if self.closes:
            self._add(b"connection: close")
        elif http_version == "1.0":
            self._add(b"connection: keep-alive")

    def _add(self, line: bytes) -> None:
        self.head = b"%b%b\r\n\r\n" % (self.head[:-2], line)

    def frame(self, body: bytes, *, last: bool) -> tuple[bytes, ...]:
        """Return the bytes to send for a piece of the body. Raises ValueError when it does not fit."""
        if self._bodiless:
            return ()
        if self._chunked:
            return _chunk(body, last=last)
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (last and self._left):
                raise ValueError("the body's length is not the one that was declared")
        return (body,) if body else ()


def switched(headers: Iterable[Pair]) -> bytes:
    """Return the head of 101. Raises ValueError for headers that would break it apart."""
    lines = [_status_line(101), b"connection: upgrade\r\nupgrade: websocket\r\n"]
    line_ends = 4  # of the status line, of two more, and the empty line
    for name, value in headers:
        if _checked_name(name) not in (b"connection", b"upgrade"):
            lines += (name, b": ", value, b"\r\n")
            line_ends += 1
    lines.append(b"\r\n")
    return _joined(lines, line_ends)


def refusal(status: int) -> bytes:
    """Return a whole answer to what never reaches the application, in the shape of every error."""
    code, reason = _REASONS[status]
    name = uuid4().hex
    body = json.dumps({"msg": reason, "code": code, "request_id": name, "retryable": False})
    return (
        f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"x-request-id: {name}\r\nconnection: close\r\n\r\n{body}"
    ).encode()


def _chunk(body: bytes, *, last: bool) -> tuple[bytes, ...]:
    if not body:
        return (_LAST_CHUNK,) if last else ()
    size = b"%x\r\n" % len(body)
    return (size, body, b"\r\n" + _LAST_CHUNK if last else b"\r\n")


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d \r\n" % status


@lru_cache(maxsize=1024)
def _checked_name(name: bytes) -> bytes:
    match = FIELD.fullmatch(name + b":\r\n")
    if match is None or match[1] != name:
        raise ValueError(f"{name!r} is no header name")
    return name.lower()


def _joined(lines: list[bytes], line_ends: int) -> bytes:
    """Join a head, unless a value holds a line end or NUL: what follows it would be another answer."""
    head = b"".join(lines)
    if head.count(b"\n") != line_ends or head.count(b"\r") != line_ends or b"\0" in head:
        raise ValueError("a header value holds a control character")
    return head


def _length(value: bytes, earlier: int | None) -> int:
    if not value.isdigit() or earlier not in (None, int(value)):
        raise ValueError(f"{value!r} is no length")
    return int(value)
