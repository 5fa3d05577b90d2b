"""Questions as the frontend asks them, and a tab that reads an answer while it comes."""

import asyncio
from contextlib import suppress
from urllib.parse import urlencode

import httpx

from tests.support.chat_model import understood
from tests.support.frontend import Frontend
from tests.support.gateway import Served

HI = "Hi"  # not worth looking up


async def ask(pupil: Frontend, chat_id: int, message: str = HI) -> httpx.Response:
    return await pupil.multipart("/api/chat/stream", message=message, session_id=str(chat_id))


async def answered(pupil: Frontend, chat_id: int, message: str = HI) -> str:
    """Ask and return the text, which must be whole for the frontend."""
    answer = await ask(pupil, chat_id, message)
    assert answer.status_code == 200, answer.text
    text, finished = understood([answer.content])
    assert finished
    assert answer.content.endswith(b'data: {"status":"finished"}\n\n')
    assert answer.content.count(b'"finished"') == 1
    return text


class Tab:
    """A browser that reads a stream as it comes, each chunk of the wire on its own."""

    def __init__(self, served: Served, headers: dict[str, str], fields: dict[str, str]) -> None:
        self._served = served
        body = urlencode(fields).encode()
        lines = {
            "Host": "t",
            "Content-Type": "application/x-www-form-urlencoded",
            "Content-Length": str(len(body)),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._request = f"POST /api/chat/stream HTTP/1.1\r\n{head}\r\n".encode() + body

    async def __aenter__(self) -> "Tab":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._served.port)
        self._writer.write(self._request)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    def leave(self) -> None:
        self._writer.close()

    async def status(self) -> int:
        async with asyncio.timeout(20):
            return int((await self._reader.readuntil(b"\r\n\r\n")).split()[1])

    async def write(self) -> bytes:
        """Return one write of the gateway, b"" at the end of the answer."""
        async with asyncio.timeout(20):
            size = int(await self._reader.readline(), 16)
            content = await self._reader.readexactly(size)
            await self._reader.readexactly(2)
            return content

    async def writes(self) -> list[bytes]:
        writes = []
        while write := await self.write():
            writes.append(write)
        return writes


def tab(served: Served, pupil: Frontend, chat_id: int, message: str = HI) -> Tab:
    return Tab(served, pupil.headers, {"message": message, "session_id": str(chat_id)})
