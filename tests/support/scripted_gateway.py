"""A gateway for the load script that answers as told, on a real socket."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from performance.credentials import DEMO_PASSWORD

TOKEN = "header.payload.signature"
PASSWORD = "Correct-horse1!"
PREVIEW_SECONDS = 0.2
STARTING_SECONDS = 15.0


@dataclass
class ScriptedGateway:
    """Answers as told; `replies` replaces the answer of a path, `paths` remembers what came."""

    url: str = ""
    latency: float = PREVIEW_SECONDS
    replies: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    fails_from: int = 1_000_000
    cuts_previews: bool = False
    paths: list[str] = field(default_factory=list)
    forms: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(content_length(head))
        status, reply, cut = await self.answer(head.split()[1], head, body)
        writer.write(f"HTTP/1.1 {status} Scripted\r\ncontent-length: {len(reply)}\r\n\r\n".encode())
        writer.write(reply[:10] if cut else reply)
        await writer.drain()
        return not cut

    async def answer(self, path: str, head: str, body: bytes) -> tuple[int, bytes, bool]:
        self.paths.append(path)
        if path in self.replies:
            return *self.replies[path], False
        if path == "/api/login":
            good = json.loads(body).get("password") in {PASSWORD, DEMO_PASSWORD}
            return (200, message(token=TOKEN), False) if good else (401, message(msg="wrong password"), False)
        if path in {"/api/ping", "/api/health"}:
            return 200, b"ok", False
        if f"authorization: bearer {TOKEN}" not in head:
            return 401, message(msg="no token"), False
        if path == "/api/avatar/preview":
            return await self.preview(body)
        return 200, message(Anna={"status": "ready"}), False

    async def preview(self, body: bytes) -> tuple[int, bytes, bool]:
        self.forms.append(body)
        number = len(self.forms)
        await asyncio.sleep(self.latency)
        if number >= self.fails_from:
            busy = message(
                msg=f"all [red]avatars busy {TOKEN}", code="busy", request_id=f"req-{number}", retryable=True
            )
            return 503, busy, False
        return 200, b"\x89PNG" * 1000, self.cuts_previews


def content_length(head: str) -> int:
    lines = [line for line in head.split("\r\n") if line.startswith("content-length:")]
    return int(lines[0].split(":")[1]) if lines else 0


def message(**members: Any) -> bytes:
    return json.dumps(members).encode()


@contextlib.contextmanager
def scripted_gateway() -> Iterator[ScriptedGateway]:
    scripted, started = ScriptedGateway(), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve_until_stopped() -> None:
        server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
        scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await stop.wait()
        server.close()
        exchanges = asyncio.all_tasks() - {asyncio.current_task()}
        for exchange in exchanges:
            exchange.cancel()
        await asyncio.gather(*exchanges, return_exceptions=True)
        await asyncio.sleep(0)  # lets the closed connections go

    thread = threading.Thread(target=loop.run_until_complete, args=(serve_until_stopped(),))
    thread.start()
    assert started.wait(STARTING_SECONDS)
    try:
        yield scripted
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
