"""What a demo service answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

JSON_TYPE = (b"content-type", b"application/json")

Headers = tuple[tuple[bytes, bytes], ...]
Body = bytes | AsyncGenerator[bytes, None]


@dataclass(frozen=True)
class Answer:
    """A response; a streamed body whose `length` is None is sent in chunks."""

    status: int = 200
    headers: Headers = ()
    body: Body = b""
    length: int | None = None

    @property
    def size(self) -> int | None:
        return len(self.body) if isinstance(self.body, bytes) else self.length

    def adding(self, headers: Headers) -> Answer:
        return replace(self, headers=self.headers + headers)

    async def whole(self) -> bytes:
        """Collect the body."""
        async with aclosing(self.pieces()) as pieces:
            return b"".join([piece async for piece in pieces])

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it is made."""
        if isinstance(self.body, bytes):
            yield self.body
            return
        async with aclosing(self.body) as chunks:
            async for chunk in chunks:
                yield chunk


def as_json(value: object, status: int = 200, headers: Headers = ()) -> Answer:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Answer(status, (JSON_TYPE, *headers), body)


def as_detail(text: str, status: int) -> Answer:
    return as_json({"detail": text}, status)
