"""Nothing of one client's is in another's answer, whatever clients and upstreams do on their connections.

Every request carries one marker in path, query, header, cookie and body. The upstream checks that they agree
and answers with the marker alone; clients, kept, pipelined and leaving at any moment, check what they get.
"""

import asyncio
import contextlib
import json
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from tests.support.gateway import mount, serving, settings_for, spawned
from tests.support.http2 import Http2
from tests.support.peer import Exchange, Peer
from tests.support.wire import Caller, Reply, calling

CLIENTS = 200
HTTP2_CLIENTS = 20
TURNS = 3
SURPLUS = b"surplus-that-nobody-asked-for"
SECOND_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(SURPLUS), SURPLUS)


@dataclass
class World:
    """The seeded dice, the markers handed out, what was wrong, and how much was seen."""

    dice: random.Random
    numbers: "count[int]" = field(default_factory=count)
    wrong: list[str] = field(default_factory=list)
    asked: int = 0
    answered: int = 0
    cut: int = 0
    failed: int = 0
    failed_at: int = 0

    def marker(self) -> bytes:
        return b"marker-%06d-%08x" % (next(self.numbers), self.dice.getrandbits(32))

    # The upstream's side.

    async def serve(self, exchange: Exchange) -> None:
        head = exchange.head
        self.asked += 1
        markers = set(re.findall(rb"marker-\d{6}-[0-9a-f]{8}", head.target))
        for name in (b"x-marker", b"cookie"):
            markers |= set(re.findall(rb"marker-\d{6}-[0-9a-f]{8}", head.get(name) or b""))
        if head.method == b"POST":
            try:
                markers |= set(filter(None, (await exchange.body()).split(b"\n")))
            except ValueError:
                return  # a chunked upload that was cut off
        if len(markers) != 1:
            self.wrong.append(f"one request carries {sorted(markers)}")
            return
        marker = markers.pop()
        for name in (b"x-marker", b"cookie"):
            if marker not in (head.get(name) or b""):
                self.wrong.append(f"{marker!r} is not in the {name!r} of its request")
        await self.answer(exchange, marker)

    async def answer(self, exchange: Exchange, marker: bytes) -> None:
        body = (marker + b"\n") * self.dice.choice((1, 100, 3000))
        head = b"HTTP/1.1 200 OK\r\nX-Marker: %b\r\nSet-Cookie: m=%b\r\n" % (marker, marker)
        whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        await asyncio.sleep(self.dice.choice((0, 0, 0.01)))
        how = self.dice.choice(("whole", "whole", "chunked", "cut", "reset", "extra", "closing"))
        if how in ("cut", "reset"):
            # Failures in a row would have the upstream left alone, and nothing mixed.
            how = how if self.asked - self.failed_at > 3 else "whole"
            self.failed_at = self.asked
        match how:
            case "whole":
                await exchange.send(whole)
            case "chunked":
                half = len(body) // 2
                pieces = b"".join(
                    b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part
                )
                await exchange.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")
            case "cut":
                await exchange.send(whole[: self.dice.randrange(len(whole))])
                exchange.writer.close()
            case "reset":
                exchange.reset()
            case "extra":  # with the answer, or just behind it
                await exchange.send(whole + self.dice.choice((SURPLUS, SECOND_ANSWER)))
            case "closing":
                await exchange.send(head + b"Connection: close\r\n\r\n" + body)
                exchange.writer.close()

    # The clients' side.

    def check(self, marker: bytes, reply: Reply) -> None:
        if reply.status != 200:
            self.failed += 1
            if reply.status not in (502, 503, 504) or b"marker" in reply.body or SURPLUS in reply.body:
                self.wrong.append(f"{marker!r} was answered with {reply.status}: {reply.body[:200]!r}")
            return
        if reply.get(b"x-marker") != marker or reply.all(b"set-cookie") != [b"m=" + marker]:
            self.wrong.append(f"{marker!r} was given the head of {reply.headers}")
        self.check_body(marker, reply.body, complete=reply.complete)

    def check_body(self, marker: bytes, body: bytes, *, complete: bool) -> None:
        line = marker + b"\n"
        times, rest = divmod(len(body), len(line))
        if body != line * times + line[:rest] or (complete and rest):
            self.wrong.append(f"{marker!r} was given {body[:200]!r}")
        self.answered += complete
        self.cut += not complete

    async def ask(self, caller: Caller, marker: bytes, *, post: bool, half: bool = False) -> None:
        body = (marker + b"\n") * self.dice.choice((1, 50, 4000)) if post else b""
        framing = b"Content-Length: %d\r\n" % len(body) if post else b""
        sent = body[: len(body) // 2] if half else body
        if post and self.dice.random() < 0.3:
            framing, end = b"Transfer-Encoding: chunked\r\n", b"" if half else b"0\r\n\r\n"
            sent = b"%x\r\n%b\r\n" % (len(sent), sent) + end if sent else end
        request = b"%b /m/%b?q=%b HTTP/1.1\r\nHost: x\r\nX-Marker: %b\r\nCookie: m=%b\r\n%b\r\n" % (
            *(b"POST" if post else b"GET", marker, marker, marker, marker),
            framing,
        )
        await caller.say(request, sent)

    async def kept(self, caller: Caller) -> None:
        """Calls one after another on one connection."""
        for _ in range(3):
            marker = self.marker()
            await self.ask(caller, marker, post=self.dice.random() < 0.5)
            reply = await caller.reply()
            self.check(marker, reply)
            if not reply.complete or reply.get(b"connection") == b"close":
                return

    async def pipelined(self, caller: Caller) -> None:
        """Calls that do not wait for one another's answers: these come in order."""
        markers = [self.marker() for _ in range(4)]
        for marker in markers:
            await self.ask(caller, marker, post=self.dice.random() < 0.3)
        for marker in markers:
            reply = await caller.reply()
            self.check(marker, reply)
            if not reply.complete or reply.get(b"connection") == b"close":
                return

    async def left(self, caller: Caller) -> None:
        """Goes amid its upload, before its answer, or amid it."""
        await self.ask(caller, self.marker(), post=True, half=self.dice.random() < 0.5)
        await asyncio.sleep(self.dice.choice((0, 0.005, 0.02)))
        if self.dice.random() < 0.5:
            caller.reset()

    async def client(self, port: int) -> None:
        ways: tuple[Callable[[Caller], Awaitable[None]], ...] = (self.kept, self.pipelined, self.left)
        for _ in range(TURNS):
            # A connection may end under its client: what arrived before was checked.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                async with calling(port) as caller:
                    await self.dice.choice(ways)(caller)

    async def http2_client(self, port: int) -> None:
        """Streams beside one another on one connection, some of them reset."""
        async with Http2(port) as http:
            streams = {}
            for _ in range(8):
                marker = self.marker()
                name = marker.decode()
                fields = (("x-marker", name), ("cookie", f"m={name}"))
                body = (marker + b"\n") * 20
                post = self.dice.random() < 0.5
                target = f"/m/{name}?q={name}"
                stream = await (http.post(target, *fields, body=body) if post else http.get(target, *fields))
                streams[stream] = marker
                if self.dice.random() < 0.2:
                    await http.reset(stream)
                    del streams[stream]
            for stream, marker in streams.items():
                try:
                    body = await http.body(stream)
                except ConnectionResetError:
                    self.cut += 1
                    continue
                if body.startswith(b"{"):
                    self.failed += 1
                else:
                    self.check_body(marker, body, complete=True)
                if SURPLUS in body or set(re.findall(rb"marker-\d{6}-[0-9a-f]{8}", body)) - {marker}:
                    self.wrong.append(f"{marker!r} was given {body[:200]!r}")


FOREIGN = b"HTTP/1.1 200 OK\r\nX-Foreign: yes\r\nSet-Cookie: foreign=1\r\nContent-Length: 7\r\n\r\nforeign"
FIRST = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown"
TRAILED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nown\r\n0\r\nX-Foreign: yes\r\n\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        (FIRST + FOREIGN,),
        (FIRST, FOREIGN),
        (FIRST + FOREIGN[:30], FOREIGN[30:]),
        (TRAILED,),
        (TRAILED, FOREIGN),
    ],
)
@pytest.mark.asyncio
async def test_what_follows_an_answer_is_nobodys(tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    """Neither in the head of the answer before it nor in the answer to the next call."""

    async def script(exchange: Exchange) -> None:
        for part in parts:
            await exchange.send(part)
            await asyncio.sleep(0.05)

    async with Peer(script) as peer:
        settings = settings_for(tmp_path, gateway_mounts=[mount("/m", peer.url, cookies=True)])
        async with serving(settings) as served, calling(served.port) as caller:
            for _ in range(3):
                await caller.ask(b"/m/x")
                reply = await caller.reply()
                assert (reply.status, reply.body) == (200, b"own")
                assert reply.get(b"x-foreign") is None
                assert reply.get(b"set-cookie") is None
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.asyncio
async def test_every_answer_carries_its_own_marker_alone(tmp_path: Path, server: str, seed: int) -> None:
    world = World(random.Random(seed))
    async with Peer(world.serve) as peer:
        mounts = json.dumps([mount("/m", peer.url, methods=["GET", "POST"], cookies=True)])
        with spawned(tmp_path, f"--server={server}", GATEWAY_MOUNTS=mounts) as gateway:
            port = gateway.port
            async with asyncio.timeout(60):
                await asyncio.gather(
                    *(world.client(port) for _ in range(CLIENTS)),
                    *(world.http2_client(port) for _ in range(HTTP2_CLIENTS)),
                )
            log = gateway.log.read_text()
    assert world.wrong == []
    assert "Traceback" not in log, log
    # The dice were thrown: there is something of every kind. How much, the order of arrivals decides.
    assert world.answered > CLIENTS
    assert world.failed
    assert world.cut
    assert peer.connections < world.asked, "no upstream connection was used twice"
