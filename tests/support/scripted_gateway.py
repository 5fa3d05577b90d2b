"""A gateway for the load script that answers as told, on a real socket."""

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from performance.credentials import DEMO_PASSWORD
from tests.support.tls import Certificate

TOKEN = "header.payload.signature"
PASSWORD = "Correct-horse1!"
PREVIEW_SECONDS = 0.2
STARTING_SECONDS = 15.0


@dataclass
class ScriptedGateway:
    """Answers as told; `replies` replaces the answer of a path, `limited` refuses it so many times first.

    `paths` and `requests` (method, path, head, body) remember what came.
    """

    url: str = ""
    latency: float = PREVIEW_SECONDS
    replies: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    fails_from: int = 1_000_000
    cuts_previews: bool = False
    limited: dict[str, int] = field(default_factory=dict)
    wait_seconds: int = 1
    paths: list[str] = field(default_factory=list)
    requests: list[tuple[str, str, str, bytes]] = field(default_factory=list)
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
        first = await reader.readexactly(1)
        if first == b"\x16":  # TLS begins so
            writer.write(b"HTTP/1.1 400 Plain\r\ncontent-length: 0\r\n\r\n")
            return False
        original = (first + await reader.readuntil(b"\r\n\r\n")).decode()
        head = original.lower()
        body = await reader.readexactly(content_length(head))
        method, path = original.split()[:2]
        self.requests.append((method, path, head, body))
        status, reply, cut = await self.answer(path, head, body)
        more = f"retry-after: {self.wait_seconds}\r\n" if status == 429 else ""
        writer.write(f"HTTP/1.1 {status} Scripted\r\n{more}content-length: {len(reply)}\r\n\r\n".encode())
        writer.write(reply[:10] if cut else reply)
        await writer.drain()
        return not cut

    async def answer(self, path: str, head: str, body: bytes) -> tuple[int, bytes, bool]:
        self.paths.append(path)
        if self.limited.get(path, 0) > 0:
            self.limited[path] -= 1
            return 429, message(msg="too many"), False
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
def scripted_gateway(certificate: Certificate | None = None) -> Iterator[ScriptedGateway]:
    scripted, started = ScriptedGateway(), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.cert, certificate.key)

    async def serve_until_stopped() -> None:
        server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0, ssl=context)
        scripted.url = (
            f"{'http' if context is None else 'https'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        )
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
