"""The forwarding core on its own: where a call goes, what of it passes; no server in front."""

import asyncio

import pytest

from backend.errors import BadTarget, ClientGone, TooLarge
from backend.services.forwarding import KEPT_BODY_BYTES, Forwarder, Rules, Upstream
from backend.services.headers import Passage
from backend.services.http_client import HttpClient
from tests.support.forwarding import Body, client, request, told
from tests.support.peer import Exchange, Peer, echo, until
from tests.support.upstream import GENEROUS

__all__ = ["client"]

pytestmark = pytest.mark.asyncio


# Where a call goes


@pytest.mark.parametrize(
    ("urls", "origins", "base"),
    [
        (["http://a:1"], ("http://a:1",), b""),
        (["http://a:1/"], ("http://a:1",), b""),
        (["http://a:1/v1/x/"], ("http://a:1",), b"/v1/x"),
        (["http://a:1/v1", "https://b/v1"], ("http://a:1", "https://b"), b"/v1"),
    ],
)
async def test_upstream_is_made_from_its_addresses(urls: list[str], origins: tuple, base: bytes) -> None:
    upstream = Upstream.at("x", *urls)
    assert (upstream.origins, upstream.base_path) == (origins, base)


async def test_addresses_of_one_service_share_their_path() -> None:
    with pytest.raises(ValueError, match="addresses of x"):
        Upstream.at("x", "http://a/v1", "http://b/v2")


async def test_calls_of_one_conversation_name_their_place_where_there_is_a_choice() -> None:
    two, one = Upstream.at("x", "http://a", "http://b"), Upstream.at("x", "http://a")
    assert two.sticky("chat").affinity == "chat"
    assert one.sticky("chat") is one
    assert [each.origins for each in two.sticky("chat").apart()] == [("http://a",), ("http://b",)]


async def test_base_path_of_the_upstream_comes_first(client: HttpClient) -> None:
    async with Peer(echo) as peer:
        upstream = Upstream.at("x", peer.url + "/v1")
        await told(Forwarder(client), upstream, request(), target=b"/a%2fb?c='d'")
    assert peer.heads[0].target == b"/v1/a%2fb?c='d'"


@pytest.mark.parametrize("target", [b"@127.0.0.1:1/", b"%2f@127.0.0.1:1/", b".evil.test/", b"", b":1/"])
async def test_target_never_names_the_host(client: HttpClient, target: bytes) -> None:
    async with Peer(echo) as peer:
        with pytest.raises(BadTarget):
            await told(Forwarder(client), Upstream.at("x", peer.url), request(), target=target)
    assert peer.connections == 0


# Bodies


@pytest.mark.parametrize("declared", [b"6", b"1000000"])
async def test_declared_length_over_the_limit_is_refused_before_anything_is_read(
    client: HttpClient, declared: bytes
) -> None:
    body = Body(b"abcdef")
    async with Peer(echo) as peer:
        inbound = request("POST", (b"content-length", declared), body=body)
        with pytest.raises(TooLarge):
            await told(Forwarder(client), Upstream.at("x", peer.url), inbound, rules=Rules(GENEROUS, 5))
    assert (body.reads, peer.connections) == (0, 0)


async def test_undeclared_body_over_the_limit_breaks_off_and_never_looks_whole(client: HttpClient) -> None:
    whole: list[bytes] = []

    async def script(exchange: Exchange) -> None:
        whole.append(await exchange.body())

    async with Peer(script) as peer:
        inbound = request("POST", body=Body(b"abc", b"def", b"ghi"))
        with pytest.raises(TooLarge):
            await told(Forwarder(client), Upstream.at("x", peer.url), inbound, rules=Rules(GENEROUS, 5))
        await until(lambda: peer.open == 0)
    assert whole == []


async def test_small_body_is_taken_before_a_place_is(client: HttpClient) -> None:
    arriving = asyncio.Event()

    class Dribbling(Body):
        async def read(self) -> bytes:
            await arriving.wait()
            return await super().read()

    async with Peer(echo) as peer:
        inbound = request("POST", (b"content-length", b"3"), body=Dribbling(b"abc"))
        call = asyncio.create_task(told(Forwarder(client), Upstream.at("x", peer.url), inbound))
        await asyncio.sleep(0.05)
        assert (client.slots.in_use, peer.connections) == (0, 0)
        arriving.set()
        assert (await call)[1] == b"abc"


async def test_client_that_leaves_amid_its_body_ends_the_call(client: HttpClient) -> None:
    async with Peer(echo) as peer:
        for size in (b"10", b"%d" % (KEPT_BODY_BYTES + 1)):
            inbound = request("POST", (b"content-length", size), body=Body(b"abc", ClientGone()))
            with pytest.raises(ClientGone):
                await told(Forwarder(client), Upstream.at("x", peer.url), inbound)
        await until(lambda: peer.open == 0)
    assert client.slots.in_use == 0


# Credentials and headers end to end


async def test_rules_decide_which_credentials_pass(client: HttpClient) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(b"ok", (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"))

    lines = [(b"authorization", b"Bearer t"), (b"cookie", b"c=3")]
    async with Peer(script) as peer:
        for passage in (Passage(), Passage(authorization=True), Passage(cookies=True)):
            rules = Rules(GENEROUS, passage=passage)
            forwarded = await Forwarder(client).forward(
                request("GET", *lines), Upstream.at("x", peer.url), b"/", rules
            )
            await forwarded.body.aclose()
            head = peer.heads[-1]
            assert head.all(b"authorization") == ([b"Bearer t"] if passage.authorization else [])
            assert head.all(b"cookie") == ([b"c=3"] if passage.cookies else [])
            cookies = [value for name, value in forwarded.headers if name == b"set-cookie"]
            assert cookies == ([b"a=1", b"b=2"] if passage.cookies else [])
