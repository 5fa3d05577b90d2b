"""Raw chat streams: the bytes as they come, and the events in them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from backend.demo.world import World

from .sockets import dial, hang_up

LAST_CHUNK = b"0\r\n\r\n"


@dataclass
class Chat:
    """A question that was sent on a socket, and what has come back."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""

    @classmethod
    async def asked(cls, world: World, text: str = "Why is the sky blue?", session: str = "1") -> Chat:
        body = json.dumps({"user_id": "7", "session_id": session, "input": text}).encode()
        reader, writer = await dial(world.model_url)
        writer.write(
            b"POST /chat/stream HTTP/1.1\r\nHost: demo\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        return cls(reader, writer)

    async def began(self) -> bytes:
        """The head of the answer."""
        async with asyncio.timeout(10):
            self.head = await self.reader.readuntil(b"\r\n\r\n")
        return self.head

    async def chunk(self, seconds: float = 10) -> bytes:
        """One chunk of the transfer coding, which is one write of the service; empty at the end."""
        async with asyncio.timeout(seconds):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def chunks(self) -> list[bytes]:
        """Every chunk up to the end of the answer."""
        found = []
        while chunk := await self.chunk():
            found.append(chunk)
        return found

    async def until_finished(self) -> list[bytes]:
        found = [await self.chunk()]
        while b'"finished"' not in found[-1]:
            found.append(await self.chunk())
        return found

    async def leave(self) -> None:
        await hang_up(self.writer)


def events(chunks: list[bytes]) -> list[dict[str, Any]]:
    """The events of a body, read as strictly as their form allows."""
    body = b"".join(chunks)
    assert body.endswith(b"\n\n")
    found = []
    for block in body.removesuffix(b"\n\n").split(b"\n\n"):
        assert block.startswith(b"data: ")
        assert b"\n" not in block
        found.append(json.loads(block.removeprefix(b"data: ")))
    return found


def text_of(found: list[dict[str, Any]]) -> str:
    return "".join(event["chunk"] for event in found if event["status"] == "streaming")
