"""What waits, what is refused and what is kept, each through a served gateway between raw sockets."""

import asyncio
from pathlib import Path

import pytest

from tests.support.gateway import mount, serving, settings_for
from tests.support.mounted import ALL, MEGABYTE, OK, Wire, error_of, gateway, transport, wire
from tests.support.peer import Exchange, Peer, echo, in_turn, settled, silent, until
from tests.support.wire import call

__all__ = ["gateway", "transport", "wire"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Backpressure

BIG = 64 * MEGABYTE


async def test_download_waits_for_a_client_that_does_not_read(wire: Wire) -> None:
    sent = 0

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(OK + b"Content-Length: %d\r\n\r\n" % BIG)
        while sent < BIG:
            await exchange.send(bytes(MEGABYTE))
            sent += MEGABYTE

    wire.play(script)
    async with wire.calling(receive_buffer=65_536) as caller:
        await caller.ask(b"/open/a")
        await caller.head()
        assert 0 < await settled(lambda: sent) < BIG // 2
        taken = 0
        while taken < BIG:
            taken += len(await caller.reader.read(MEGABYTE))
        assert taken == sent == BIG


async def test_upload_waits_for_an_upstream_that_does_not_read(wire: Wire) -> None:
    go, got, sent = asyncio.Event(), 0, 0

    async def script(exchange: Exchange) -> None:
        nonlocal got
        await go.wait()
        while got < BIG:
            got += len(await exchange.reader.read(MEGABYTE))
        await exchange.reply(b"%d" % got)

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/open/a", (b"Content-Length", b"%d" % BIG), method=b"POST")

        async def push() -> None:
            nonlocal sent
            while sent < BIG:
                await caller.say(bytes(MEGABYTE // 4))
                sent += MEGABYTE // 4

        pushing = asyncio.create_task(push())
        assert 0 < await settled(lambda: sent) < BIG // 2
        go.set()
        assert (await caller.reply()).body == b"%d" % BIG
        await pushing


# Limits of bodies


async def test_declared_length_over_the_limit_is_refused_before_anything_goes_up(wire: Wire) -> None:
    connections = wire.peer.connections
    async with wire.calling() as caller:
        await caller.ask(b"/small/a", (b"Content-Length", b"131073"), method=b"POST")
        shown = error_of(await caller.reply(), 413, "too_large")
    assert "128 KB" in str(shown["msg"])
    assert (wire.peer.heads, wire.peer.connections) == ([], connections)


async def test_chunked_body_over_the_limit_is_refused_while_it_comes(wire: Wire) -> None:
    whole: list[bytes] = []
    ended = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        try:
            whole.append(await exchange.body())
        finally:
            ended.set()

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/small/a", (b"Transfer-Encoding", b"chunked"), method=b"POST")
        for _ in range(3):
            await caller.say(b"10000\r\n" + bytes(65_536) + b"\r\n")
        error_of(await caller.reply(), 413, "too_large")
    async with asyncio.timeout(5):
        await ended.wait()
    assert whole == []


async def test_body_of_exactly_the_limit_passes(wire: Wire) -> None:
    reply = await wire.call(b"/small/a", method=b"POST", body=bytes(131_072))
    assert len(reply.body) == 131_072


# Pool


async def test_full_pool_is_a_503_that_says_when_to_come_back(
    tmp_path: Path, wire: Wire, transport: str
) -> None:
    async with Peer(silent) as peer:
        settings = settings_for(
            tmp_path,
            upstream_transport=transport,
            upstream_max_connections=2,
            gateway_pool_waiting=1,
            gateway_pool_wait_seconds=0.3,
            gateway_mounts=[mount("/m", peer.url)],
        )
        async with serving(settings) as served, asyncio.TaskGroup() as group:
            slots = served.gateway.client.slots
            holders = [group.create_task(call(served.port, b"/m/a")) for _ in range(2)]
            await until(lambda: slots.in_use == 2 and len(peer.heads) == 2)
            # One may wait, and waits in vain; the other is refused at once.
            more = [group.create_task(call(served.port, b"/m/a")) for _ in range(2)]
            for reply in await asyncio.gather(*more):
                error_of(reply, 503, "overloaded")
                assert int(reply.get(b"retry-after") or b"0") >= 1
            assert len(peer.heads) == 2
            for holder in holders:
                holder.cancel()
            await until(lambda: slots.in_use == 0)


# Connections


async def test_consecutive_calls_share_one_connection(tmp_path: Path, wire: Wire, transport: str) -> None:
    async with Peer(in_turn) as peer:
        mounts = [mount("/m", peer.url, methods=ALL)]
        settings = settings_for(tmp_path, upstream_transport=transport, gateway_mounts=mounts)
        async with serving(settings) as served:
            for number in range(9):
                method, body = (b"POST", b"x" * number * 20_000) if number % 2 else (b"GET", None)
                assert (await call(served.port, b"/m/a", method=method, body=body)).complete
        assert (len(peer.heads), peer.connections) == (9, 1)


async def test_many_calls_run_side_by_side(wire: Wire) -> None:
    all_here = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if len(wire.peer.heads) >= 100:
            all_here.set()
        await asyncio.wait_for(all_here.wait(), 40)
        await exchange.reply(b"ok")

    wire.play(script)
    replies = await asyncio.gather(*(wire.call() for _ in range(100)))
    assert {reply.body for reply in replies} == {b"ok"}


async def test_proxy_of_the_environment_is_ignored(
    tmp_path: Path, wire: Wire, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Peer(echo) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        settings = settings_for(
            tmp_path, upstream_transport=transport, gateway_mounts=[mount("/m", wire.peer.url)]
        )
        async with serving(settings) as served:
            assert (await call(served.port, b"/m/a")).status == 200
            assert (await call(served.port, b"/m/it's?'")).status == 200
        assert proxy.connections == 0
