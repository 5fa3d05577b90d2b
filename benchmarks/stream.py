"""One large body over one connection, on blocking sockets, so that the load costs little."""

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.processes import Failure

PATIENCE_SECONDS = 60.0
READ_BYTES = 1024 * 1024
MOST_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True)
class Transfer:
    """A body that went through whole."""

    size: int
    seconds: float


class Line:
    """A keep-alive connection; `with` closes it. Raises Failure when an answer is wrong or late."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._authority = parts.netloc
        self._headers = headers
        self._buffer = bytearray(READ_BYTES)

    def __enter__(self) -> "Line":
        self._socket = socket.create_connection(self._address, timeout=PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def download(self, target: str) -> Transfer:
        start = time.perf_counter()
        try:
            self._socket.sendall(self._head("GET", target))
            size = self._body_read()
        except OSError as error:
            raise Failure(f"download of {target}: {error!r}") from error
        return Transfer(size, time.perf_counter() - start)

    def upload(self, target: str, file: Path) -> Transfer:
        size = file.stat().st_size
        start = time.perf_counter()
        try:
            self._socket.sendall(self._head("POST", target, size))
            with file.open("rb") as body:
                self._socket.sendfile(body)
            self._body_read()
        except OSError as error:
            raise Failure(f"upload to {target}: {error!r}") from error
        return Transfer(size, time.perf_counter() - start)

    def _head(self, method: str, target: str, size: int | None = None) -> bytes:
        return head(method, target, self._authority, self._headers, size)

    def _body_read(self) -> int:
        received = b""
        while b"\r\n\r\n" not in received:
            if len(received) > MOST_HEAD_BYTES:
                raise Failure("an answer's head does not end")
            received += self._read()
        top, _, begun = received.partition(b"\r\n\r\n")
        status, length = parsed(top)
        if status != 200:
            raise Failure(f"answered with {status}: {begun[:300].decode(errors='replace')}")
        missing = length - len(begun)
        while missing > 0:
            missing -= self._read_into()
        return length

    def _read(self) -> bytes:
        return bytes(self._buffer[: self._read_into()])

    def _read_into(self) -> int:
        arrived = self._socket.recv_into(self._buffer)
        if not arrived:
            raise Failure("the connection was closed amid an answer")
        return arrived


def head(
    method: str, target: str, authority: str, headers: Mapping[str, str], size: int | None = None
) -> bytes:
    """Return a request's head; `size` is the length of the body that follows."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [] if size is None else [f"Content-Length: {size}"]
    return "\r\n".join([*lines, "", ""]).encode()


def parsed(top: bytes) -> tuple[int, int]:
    """Return status and length of an answer whose head is `top`. Raises Failure for one without a length."""
    first, *lines = top.split(b"\r\n")
    try:
        status = int(first.split(b" ", 2)[1])
        fields = dict(line.lower().split(b":", 1) for line in lines)
        return status, int(fields[b"content-length"])
    except (ValueError, IndexError, KeyError) as error:
        raise Failure(f"an answer without a length: {top[:300]!r}") from error
