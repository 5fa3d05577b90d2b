"""The client above its transports: the gateway's own questions, and whose calls get a place."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
import respx

from backend.errors import (
    Overloaded,
    UpstreamBroken,
    UpstreamGarbage,
    UpstreamIdleTimeout,
    UpstreamTotalTimeout,
)
from backend.services.http_client import ANSWER_BYTES, Answer, HttpClient
from backend.services.policies import Timeouts
from tests.support.peer import Exchange, Peer, echo, silent, until
from tests.support.upstream import GENEROUS, Door, client_of

pytestmark = pytest.mark.asyncio

OK = b"HTTP/1.1 200 OK\r\n"


@pytest_asyncio.fixture(params=["direct", "reqwest", "httpx"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[HttpClient]:
    async with client_of(request.param) as opened:
        yield opened


async def test_question_carries_json_and_brings_the_answer_whole(client: HttpClient) -> None:
    async with Peer(echo) as peer:
        answer = await client.ask("POST", f"{peer.url}/a?b=1", GENEROUS, {"name": "化身"})
    assert answer.status == 200
    assert json.loads(answer.content) == {"name": "化身"}
    assert peer.heads[0].target == b"/a?b=1"
    assert peer.heads[0].get(b"content-type") == b"application/json"
    assert client.slots.in_use == 0


async def test_question_without_json_has_no_body(client: HttpClient) -> None:
    async with Peer(echo) as peer:
        assert await client.ask("GET", peer.url, GENEROUS) == Answer(200, b"")
    assert peer.heads[0].get(b"content-type") is None
    assert peer.heads[0].get(b"content-length") is None


@pytest.mark.parametrize("status", [b"302 Found", b"404 Not Found", b"500 Oops", b"503 Busy"])
async def test_status_of_an_answer_is_for_the_asker_to_judge(client: HttpClient, status: bytes) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(b"{}", (b"Location", b"/x"), status=status)

    async with Peer(script) as peer:
        assert await client.ask("GET", peer.url, GENEROUS) == Answer(int(status[:3]), b"{}")


async def test_answer_far_over_a_megabyte_is_cut_off(client: HttpClient) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Content-Length: 1000000000\r\n\r\n")
        while not exchange.writer.is_closing():
            await exchange.send(bytes(65_536))

    async with Peer(script) as peer:
        with pytest.raises(UpstreamGarbage, match="more than expected"):
            await client.ask("GET", peer.url, GENEROUS)
        await until(lambda: peer.open == 0)
    assert client.slots.in_use == 0


async def test_answer_of_exactly_a_megabyte_is_taken(client: HttpClient) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(bytes(ANSWER_BYTES))

    async with Peer(script) as peer:
        assert len((await client.ask("GET", peer.url, GENEROUS)).content) == ANSWER_BYTES


async def test_limits_of_a_question_hold_for_its_body(client: HttpClient) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Content-Length: 10\r\n\r\n{")
        await exchange.client_left()

    async with Peer(script) as peer:
        with pytest.raises(UpstreamIdleTimeout):
            await client.ask("GET", peer.url, Timeouts(first_byte=10, idle=0.1, total=10))
        with pytest.raises(UpstreamTotalTimeout):
            await client.ask("GET", peer.url, Timeouts(first_byte=10, idle=10, total=0.1))
        await until(lambda: peer.open == 0)


async def test_answer_that_came_packed_all_the_same_is_understood(client: HttpClient) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(gzip.compress(b'{"a": 1}'), (b"Content-Encoding", b"gzip"))

    async with Peer(script) as peer:
        assert (await client.ask("GET", peer.url, GENEROUS)).content == b'{"a": 1}'


async def test_answer_that_is_not_packed_as_it_says_makes_no_sense(client: HttpClient) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(b"not gzip", (b"Content-Encoding", b"gzip"))

    async with Peer(script) as peer:
        with pytest.raises(UpstreamGarbage):
            await client.ask("GET", peer.url, GENEROUS)


@pytest.mark.parametrize("packing", ["gzip", "deflate", "br", "gzip, gzip"])
async def test_answer_that_unpacks_to_far_more_than_expected_makes_no_sense(
    client: HttpClient, packing: str
) -> None:
    """A hundred megabytes of zeros are a hundred kilobytes on the wire."""
    huge = bytes(100 << 20)
    packed = zlib.compress(huge) if packing == "deflate" else gzip.compress(huge)

    async def script(exchange: Exchange) -> None:
        await exchange.reply(packed, (b"Content-Encoding", packing.encode()))

    async with Peer(script) as peer:
        tracemalloc.start()
        with pytest.raises(UpstreamGarbage):
            await client.ask("GET", peer.url, GENEROUS)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 << 20


async def test_cut_answer_is_an_error_not_half_an_answer(client: HttpClient) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Content-Length: 10\r\n\r\n{}")
        exchange.writer.close()

    async with Peer(script) as peer:
        with pytest.raises(UpstreamBroken):
            await client.ask("GET", peer.url, GENEROUS)


async def test_one_visitors_cookie_does_not_stay_in_the_shared_client(client: HttpClient) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(b"{}", (b"Set-Cookie", b"session=first; Path=/; Domain=127.0.0.1"))

    async with Peer(script) as peer:
        for _ in range(2):
            await client.http.get(peer.url)
            await client.ask("GET", peer.url, GENEROUS)
    assert [head.get(b"cookie") for head in peer.heads] == [None] * 4
    assert len(client.http.cookies) == 0


async def test_both_doors_share_one_count_of_places() -> None:
    settings = {"upstream_max_connections": 2, "gateway_pool_wait_seconds": 0.05}
    async with Peer(silent) as peer, client_of("reqwest", **settings) as client:
        calls = [asyncio.create_task(Door(name, client).fetch(peer.url)) for name in ("open", "http")]
        await until(lambda: len(peer.heads) == 2)
        assert client.slots.in_use == 2
        assert "2/20 in use" in repr(client)
        with pytest.raises(Overloaded):
            await client.ask("GET", peer.url, GENEROUS)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


async def test_both_doors_share_one_connection(client: HttpClient) -> None:
    async with Peer(echo) as peer:
        for name in ("open", "http", "open"):
            await Door(name, client).fetch(peer.url)
        await client.ask("GET", peer.url, GENEROUS)
        assert peer.connections == 1


async def test_respx_can_stand_in_at_the_front_door(client: HttpClient) -> None:
    with respx.mock() as mocked:
        mocked.get("http://catalogue.test/list").respond(json=["a"])
        client.http = httpx.AsyncClient(transport=httpx.MockTransport(mocked.async_handler))
        answer = await client.ask("GET", "http://catalogue.test/list", GENEROUS)
        await client.http.aclose()
    assert json.loads(answer.content) == ["a"]


async def test_call_after_the_end_is_an_error_of_the_gateway_not_a_hang() -> None:
    async with Peer(echo) as peer:
        async with client_of("reqwest") as client:
            await client.ask("GET", peer.url, GENEROUS)
        async with asyncio.timeout(5):
            with pytest.raises(Overloaded):
                await Door("open", client).fetch(peer.url)
    assert client.slots.in_use == 0
