"""Multipart forms for tests: written by hand, delivered in any pieces, read back by another parser."""

from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from itertools import pairwise

BOUNDARY = b"----WebKitFormBoundaryAbCdEf0123456789"
MULTIPART = b"multipart/form-data; boundary=" + BOUNDARY


class Pieces:
    """A request body of given chunks, which are never empty."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = [chunk for chunk in chunks if chunk]
        self.reads = 0
        self.closed = 0

    async def read(self) -> bytes:
        self.reads += 1
        return self._chunks.pop(0) if self._chunks else b""

    async def aclose(self) -> None:
        self.closed += 1


@dataclass(frozen=True)
class Part:
    name: str
    content: bytes
    filename: str | None = None


def written(parts: Sequence[Part], boundary: bytes = BOUNDARY) -> bytes:
    """The form as a browser writes it."""
    out = b""
    for part in parts:
        file = "" if part.filename is None else f'; filename="{part.filename}"\r\nContent-Type: video/mp4'
        head = f'\r\nContent-Disposition: form-data; name="{part.name}"{file}\r\n\r\n'
        out += b"--" + boundary + head.encode() + part.content + b"\r\n"
    return out + b"--" + boundary + b"--\r\n"


def cut(content: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut bytes at the given places."""
    edges = [0, *sorted(place % (len(content) + 1) for place in places), len(content)]
    return [content[start:end] for start, end in pairwise(edges)]


def parsed(content_type: bytes, content: bytes) -> list[Part]:
    """Read a form with the standard library's parser, which knows nothing of ours."""
    boundary = content_type.partition(b"boundary=")[2]
    assert content.endswith(b"--" + boundary + b"--\r\n")
    bodies = (b"\r\n" + content).split(b"\r\n--" + boundary)[1:-1]
    parts = []
    for body in bodies:
        head, _, value = body.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        message = BytesParser(policy=HTTP).parsebytes(head + b"\r\n\r\n")
        disposition = message["content-disposition"]
        parts.append(Part(disposition.params["name"], value, disposition.params.get("filename")))
    return parts
