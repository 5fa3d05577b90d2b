"""Clients that misuse HTTP/2: they are told to calm down or cut, and nobody else notices."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from backend.http2 import frames, patience
from backend.http2.frames import END_STREAM, Code, Setting, frame
from backend.http2.protocol import HEAD_SECONDS
from tests.conformance.client import Client, Target
from tests.conformance.pieces import (
    Head,
    block,
    continuation,
    data,
    headers,
    literal,
    ping,
    priority,
    rst_stream,
    setting,
    string,
    whole,
    window_update,
)
from tests.support.gateway import Spawned, spawned
from tests.support.peer import Exchange, Peer, until

# How soon exactly, `benchmarks.crowds` says: here other tests share the machine.
FRESH_SECONDS = 10.0
CALM = Code.ENHANCE_YOUR_CALM
MOST_GROWTH = 64 * 1024 * 1024
COUNT = 20_000


@dataclass
class Attacked:
    """A gateway in a process of its own, its upstream, and what fresh calls beside the attack took."""

    gateway: Spawned
    peer: Peer
    target: Target
    took: list[float] = field(default_factory=list)

    @property
    def head(self) -> Head:
        return Head(self.target)

    @property
    def memory(self) -> int:
        return int(psutil.Process(self.gateway.process.pid).memory_info().rss)

    async def fresh(self) -> None:
        """Make a call on a connection of its own."""
        began = time.monotonic()
        async with httpx.AsyncClient(base_url=self.gateway.url, trust_env=False, timeout=20) as http:
            assert (await http.get("/m/quick")).content == b"ok"
        self.took.append(time.monotonic() - began)


async def upstream(exchange: Exchange) -> None:
    if exchange.head.target.startswith(b"/quick"):
        await exchange.reply(b"ok")
    elif exchange.head.target.startswith(b"/large"):
        await exchange.reply(bytes(1024 * 1024))
    else:
        await exchange.client_left()


@contextlib.asynccontextmanager
async def attacked(
    folder: Path, get: str = "/m/quick", most_growth: int = MOST_GROWTH
) -> AsyncIterator[Attacked]:
    """Serve, call afresh all the while, and see at the end that the gateway is well and kept small."""
    async with Peer(upstream) as peer:
        mounts = f'[{{"prefix":"/m","upstream":"{peer.url}","auth":"none","methods":["GET","POST"]}}]'
        with spawned(folder, GATEWAY_MOUNTS=mounts) as gateway:
            target = Target("127.0.0.1", httpx.URL(gateway.url).port or 0, get=get, post="/m/upload")
            here = Attacked(gateway, peer, target)
            await here.fresh()
            before = here.memory
            calling = asyncio.create_task(_call_on(here))
            try:
                yield here
            finally:
                calling.cancel()
                await asyncio.gather(calling, return_exceptions=True)
            await here.fresh()
            assert max(here.took) < FRESH_SECONDS, here.took
            await until(lambda: here.memory - before < most_growth, 10)
            assert "Traceback" not in gateway.log.read_text()
            assert " 50" not in gateway.log.read_text()


async def _call_on(here: Attacked) -> None:
    while True:
        await here.fresh()
        await asyncio.sleep(0.1)


async def is_calmed(client: Client, octets: Iterable[bytes]) -> None:
    """Send on until the server has had enough; it says so and closes."""
    for chunk in octets:
        await client.send(chunk)
        if client.goaway is not None or client.closed:
            break
    assert await client.until(lambda: client.goaway is not None), "it goes on for ever"
    assert client.goaway is not None
    assert client.goaway[1] == CALM, client.goaway
    assert await client.until(lambda: client.closed)


def many(octets: bytes, count: int = COUNT, at_once: int = 500) -> Iterable[bytes]:
    return (octets * at_once for _ in range(count // at_once))


FLOODS = {
    "PING": ping(),
    "PING ack": ping(flags=frames.ACK),
    "SETTINGS": frame(frames.SETTINGS, 0, 0),
    "window settings": setting(Setting.INITIAL_WINDOW_SIZE, 1000),
    "SETTINGS ack": frame(frames.SETTINGS, frames.ACK, 0),
    "PRIORITY": priority(1),
    "WINDOW_UPDATE": window_update(0, 1),
    "unknown": frame(0x16, 0, 0, b"unknown"),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
@pytest.mark.asyncio
async def test_a_flood_of_frames_that_carry_nothing_is_ended(tmp_path: Path, flood: bytes) -> None:
    async with attacked(tmp_path) as here, Client(here.target) as client:
        await client.shake_hands()
        await is_calmed(client, many(flood))


@pytest.mark.asyncio
async def test_floods_on_an_open_stream_are_ended(tmp_path: Path) -> None:
    async with attacked(tmp_path) as here:
        for flood in (data(1, b""), window_update(1, 1), frame(frames.DATA, frames.PADDED, 1, b"\x00")):
            async with Client(here.target) as client:
                await client.shake_hands()
                await client.send(here.head.post(1))
                await is_calmed(client, many(flood))
        await until(lambda: here.peer.open <= 1, 10)


@pytest.mark.asyncio
async def test_rapid_reset_is_ended_and_cancels_what_it_began(tmp_path: Path) -> None:
    """CVE-2023-44487."""
    async with attacked(tmp_path, get="/m/slow") as here:
        head = here.head
        async with Client(here.target) as client:
            await client.shake_hands()
            pairs = (
                b"".join(head.get(n) + rst_stream(n) for n in range(first, first + 200, 2))
                for first in range(1, COUNT, 200)
            )
            await is_calmed(client, pairs)
            await until(lambda: sum(h.target == b"/slow" for h in here.peer.heads) <= patience.RESETS)
        began = time.monotonic()
        await until(lambda: here.peer.open <= 1, 10)  # a fresh call may be under way
        assert time.monotonic() - began < 5


@pytest.mark.asyncio
async def test_slower_resets_never_have_more_calls_upstream_than_streams(tmp_path: Path) -> None:
    """Resets that come once the upstream was asked: their calls end, and only then give their place back."""
    async with attacked(tmp_path, get="/m/slow") as here, Client(here.target) as client:
        await client.shake_hands()
        most, stream = 0, 1
        for _ in range(4):
            ids = range(stream, stream + 200, 2)
            await client.send(*(here.head.get(n) for n in ids))
            await until(lambda: here.peer.open >= 100, 20)
            most = max(most, here.peer.open)
            await client.send(*(rst_stream(n) for n in ids))
            await until(lambda: here.peer.open <= 1, 10)
            stream += 200
        assert most <= 102
        assert client.goaway is None


@pytest.mark.asyncio
async def test_made_resets_are_ended_as_well(tmp_path: Path) -> None:
    """CVE-2025-8671: faults that make the server reset the streams."""
    async with attacked(tmp_path, get="/m/slow") as here, Client(here.target) as client:
        await client.shake_hands()
        pairs = (here.head.get(n) + window_update(n, 0) for n in range(1, COUNT, 2))
        await is_calmed(client, pairs)
        await until(lambda: here.peer.open <= 1, 10)


@pytest.mark.asyncio
async def test_a_flood_of_malformed_heads_is_ended(tmp_path: Path) -> None:
    async with attacked(tmp_path) as here, Client(here.target) as client:
        await client.shake_hands()
        await is_calmed(client, (whole(b"", n) for n in range(1, COUNT, 2)))


@pytest.mark.parametrize("fragment", [b"", literal(b"x-more", b"x" * 1000)], ids=["empty", "full"])
@pytest.mark.asyncio
async def test_a_head_in_endless_pieces_is_ended(tmp_path: Path, fragment: bytes) -> None:
    async with attacked(tmp_path) as here, Client(here.target) as client:
        await client.shake_hands()
        await client.send(headers(1, here.head.fields(), END_STREAM))
        await is_calmed(client, many(continuation(1, fragment, 0), at_once=10))


@pytest.mark.asyncio
async def test_a_head_that_unpacks_to_far_more_is_ended(tmp_path: Path) -> None:
    """HPACK bomb: one large entry of the table, named thousands of times by one octet each."""
    async with attacked(tmp_path) as here, Client(here.target) as client:
        await client.shake_hands()
        await client.send(whole(here.head.fields() + b"\x40" + string(b"x-bomb") + string(b"x" * 4000)))
        await is_calmed(client, [whole(here.head.fields() + b"\xbe" * 16_000, 3)])


@pytest.mark.asyncio
async def test_a_huge_target_is_refused_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with attacked(tmp_path) as here, Client(here.target) as client:
        await client.shake_hands()
        pseudo = [(n, v if n != b":path" else b"/" + b"x" * 50_000) for n, v in here.head.pseudo()]
        fields = block(*pseudo)
        parts = [fields[at : at + 16_000] for at in range(0, len(fields), 16_000)]
        await client.send(headers(1, parts[0], END_STREAM), *(continuation(1, p, 0) for p in parts[1:]))
        await client.send(continuation(1, b""), here.head.get(3))
        assert await client.until(lambda: client.answer(1).ended and client.answer(3).ended)
        assert (client.answer(1).status, client.answer(3).status) == (431, 200)


@pytest.mark.asyncio
async def test_a_head_that_takes_too_long_is_ended_though_another_stream_is_busy(tmp_path: Path) -> None:
    async with attacked(tmp_path, get="/m/slow") as here:
        target = Target("127.0.0.1", here.target.port, get="/m/slow", patience=30)
        async with Client(target) as slow, Client(target) as partial, Client(target) as silent:
            began = time.monotonic()
            for client in (slow, partial):
                await client.shake_hands()
                await client.send(here.head.get(1))
            await slow.send(headers(3, here.head.fields(), END_STREAM))
            await partial.send(here.head.get(3)[:20])
            await silent.send(frames.PREFACE + frame(frames.SETTINGS, 0, 0)[:5])
            for client in (slow, partial, silent):
                assert await client.until(lambda client=client: client.closed)
                assert client.goaway is not None
                assert client.goaway[1] == CALM
            assert HEAD_SECONDS - 1 < time.monotonic() - began < 15
        await until(lambda: here.peer.open <= 1, 10)


async def ping_on(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(30):
        while True:
            writer.write(ping() * 1000)
            await writer.drain()
            await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_answers_that_are_not_read_end_the_connection(tmp_path: Path) -> None:
    """PINGs from a client that reads nothing back: neither memory nor a write that waits for ever."""
    async with attacked(tmp_path) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.target.port, limit=1)
        writer.write(frames.PREFACE + frame(frames.SETTINGS, 0, 0))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionError):
            await ping_on(writer)
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        del reader


@pytest.mark.timeout(300)
@pytest.mark.asyncio
async def test_a_thousand_clients_without_window_starve_nobody(tmp_path: Path) -> None:
    """Each asks for 1 MiB and takes not an octet of it; what is held for them stays small."""
    # What they held is free once they have left, but the allocator may keep it for the next.
    kept = attacked(tmp_path, get="/m/large", most_growth=1024 * 1024 * 1024)
    async with kept as here, contextlib.AsyncExitStack() as stack:
        before = here.memory
        clients = []
        for _ in range(900):  # of the 1,000 places upstream; the others are for the fresh calls
            client = await stack.enter_async_context(Client(here.target))
            await client.send(frames.PREFACE, setting(Setting.INITIAL_WINDOW_SIZE, 0), here.head.get(1))
            clients.append(client)
        for client in clients:
            assert await client.until(lambda client=client: client.answer(1).status == 200)
        held = (here.memory - before) / len(clients)
        # A chunk of 256 KiB waits for the window, and the upstream's connection reads as much ahead.
        assert held < 640 * 1024, f"{held / 1024:.0f} KiB for each"
        assert all(not client.answer(1).body for client in clients)


@pytest.mark.asyncio
async def test_streams_that_upload_nothing_leave_their_neighbours_alone(tmp_path: Path) -> None:
    async with attacked(tmp_path) as here, Client(here.target) as client:
        await client.shake_hands()
        await client.send(*(here.head.post(n) for n in range(1, 401, 2)))
        await client.send(here.head.get(401))
        assert await client.until(lambda: client.answer(401).ended)
        assert client.answer(401).status == 200
        await client.send(*(rst_stream(n) for n in range(1, 401, 2)))
        assert await client.is_alive()
    assert client.goaway is None


@pytest.mark.asyncio
async def test_data_after_the_end_costs_the_stream_and_a_flood_of_it_the_connection(tmp_path: Path) -> None:
    async with attacked(tmp_path, get="/m/slow") as here, Client(here.target) as client:
        await client.shake_hands()
        await client.send(here.head.get(1), data(1, b"more"))
        assert await client.until(lambda: client.answer(1).reset == Code.STREAM_CLOSED)
        assert await client.is_alive()
        await is_calmed(client, many(data(1, b"more")))


@pytest.mark.asyncio
async def test_a_body_in_crumbs_costs_no_more_memory_than_in_one_piece(tmp_path: Path) -> None:
    """A window of 64 KiB, in frames of one octet, on 200 streams that nobody reads further."""
    async with attacked(tmp_path) as here, Client(here.target) as client:
        await client.shake_hands()
        before = here.memory
        for stream in range(1, 41, 2):
            await client.send(here.head.post(stream), data(stream, b"x") * 60_000)
        assert await client.is_alive()
        assert here.memory - before < 32 * 1024 * 1024
