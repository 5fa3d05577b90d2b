"""The forwarding core on its own: preparing, attempting again, finishing; no server in front."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from backend.errors import (
    BadTarget,
    ClientGone,
    Overloaded,
    TooLarge,
    UpstreamBroken,
    UpstreamError,
    UpstreamFirstByteTimeout,
    UpstreamRefused,
    UpstreamTotalTimeout,
    UpstreamUnavailable,
)
from backend.services.breaker import FAILURES
from backend.services.forwarding import KEPT_BODY_BYTES, Forwarder, Inbound, Rules, Upstream
from backend.services.headers import Origin, Passage
from backend.services.http_client import HttpClient
from backend.services.policies import Timeouts
from backend.services.streams import ByteStream, read_whole

from ..support.gateway import free_port
from ..support.peer import Exchange, Peer, until
from ..support.upstream import GENEROUS, client_of
from ..support.wire import Pair, unanswering

pytestmark = pytest.mark.asyncio

ORIGIN = Origin("192.0.2.7", "http", b"gateway.test", "1.1", "0123456789abcdef")
RULES = Rules(GENEROUS)


@pytest_asyncio.fixture(params=["direct", "reqwest", "httpx"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[HttpClient]:
    # Short for what never answers, long enough for a busy machine: a peer that is there must not seem away.
    async with client_of(request.param, gateway_connect_seconds=1.5) as opened:
        yield opened


class Body:
    """A request body of given chunks."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self._chunks = list(chunks)
        self.reads = 0

    async def read(self) -> bytes:
        self.reads += 1
        chunk = self._chunks.pop(0) if self._chunks else b""
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    async def aclose(self) -> None:
        return None


def request(method: str = "GET", *headers: Pair, body: ByteStream | None = None) -> Inbound:
    return Inbound(method, b"/", b"", headers, body, ORIGIN)


async def echo(exchange: Exchange) -> None:
    await exchange.reply(await exchange.body())


async def told(forwarder: Forwarder, upstream: Upstream, inbound: Inbound, **more: Any) -> tuple[dict, bytes]:
    """Forward and read the answer whole."""
    forwarded = await forwarder.forward(inbound, upstream, more.pop("target", b"/"), more.pop("rules", RULES))
    return dict(forwarded.headers), await read_whole(forwarded.body, 1 << 30)


def breaking(times: int, then: Callable = echo) -> Callable:
    """A script that resets its first connections after it read the request."""

    async def script(exchange: Exchange) -> None:
        if exchange.number <= times:
            await exchange.body()
            exchange.reset()
        else:
            await then(exchange)

    return script


def first(count: int) -> int:
    """Dice that always fall on the first."""
    return 0


def refused() -> str:
    return f"http://127.0.0.1:{free_port()}"


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


# What is tried again


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_refused_call_goes_to_the_next_address(client: HttpClient, method: str) -> None:
    async with Peer(echo) as peer:
        upstream, forwarder = Upstream.at("x", refused(), peer.url), Forwarder(client, first)
        seen = []
        for _ in range(4):
            body = Body(b"abc") if method == "POST" else None
            lines = [(b"content-length", b"3")] if method == "POST" else []
            headers, content = await told(forwarder, upstream, request(method, *lines, body=body))
            assert content == (b"abc" if method == "POST" else b"")
            seen.append(headers.get(b"x-upstream-attempts"))
    assert seen == [b"2"] * 4


async def test_address_that_does_not_answer_the_handshake_is_passed_by(client: HttpClient) -> None:
    with unanswering() as port:
        async with Peer(echo) as peer:
            upstream = Upstream.at("x", f"http://127.0.0.1:{port}", peer.url)
            headers, _ = await told(Forwarder(client, first), upstream, request())
    assert headers[b"x-upstream-attempts"] == b"2"


async def test_three_refusals_are_enough(client: HttpClient) -> None:
    async with Peer(echo) as peer:
        upstream = Upstream.at("x", refused(), refused(), refused(), peer.url)
        with pytest.raises(UpstreamRefused):
            await told(Forwarder(client, first), upstream, request())
    assert peer.heads == []


async def test_get_whose_connection_broke_is_tried_once_more(client: HttpClient) -> None:
    async with Peer(breaking(1)) as peer:
        headers, _ = await told(Forwarder(client), Upstream.at("x", peer.url), request())
    assert headers[b"x-upstream-attempts"] == b"2"
    assert len(peer.heads) == 2


async def test_get_that_breaks_twice_is_not_tried_a_third_time(client: HttpClient) -> None:
    async with Peer(breaking(9)) as peer:
        with pytest.raises(UpstreamBroken):
            await told(Forwarder(client), Upstream.at("x", peer.url), request())
    assert len(peer.heads) == 2


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("kept", [False, True])
async def test_post_is_never_sent_twice(client: HttpClient, method: str, kept: bool) -> None:
    async with Peer(echo) as peer:
        upstream, forwarder = Upstream.at("x", peer.url, peer.url), Forwarder(client)
        if kept:
            await told(forwarder, upstream, request())
        peer.script = breaking(9)
        peer.heads.clear()
        inbound = request(method, (b"content-length", b"3"), body=Body(b"abc"))
        with pytest.raises(UpstreamBroken):
            await told(forwarder, upstream, inbound)
        assert len(peer.heads) == 1


async def test_put_with_a_kept_body_is_sent_again_whole(client: HttpClient) -> None:
    async with Peer(breaking(1)) as peer:
        inbound = request("PUT", (b"content-length", b"6"), body=Body(b"abc", b"def"))
        headers, content = await told(Forwarder(client), Upstream.at("x", peer.url), inbound)
    assert (headers[b"x-upstream-attempts"], content) == (b"2", b"abcdef")


async def test_put_whose_body_is_gone_is_not_sent_again(client: HttpClient) -> None:
    async with Peer(breaking(9)) as peer:
        with pytest.raises(UpstreamBroken):
            await told(Forwarder(client), Upstream.at("x", peer.url), request("PUT", body=Body(b"abc")))
    assert len(peer.heads) == 1


async def test_streamed_body_that_nobody_touched_goes_to_the_next_address(client: HttpClient) -> None:
    async with Peer(echo) as peer:
        upstream = Upstream.at("x", refused(), peer.url)
        inbound = request("POST", body=Body(b"abc", b"d"))
        headers, content = await told(Forwarder(client, first), upstream, inbound)
    assert (headers[b"x-upstream-attempts"], content) == (b"2", b"abcd")


async def test_call_that_may_still_be_working_is_not_sent_again(client: HttpClient) -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.client_left()

    async with Peer(silent) as peer:
        rules = Rules(Timeouts(first_byte=0.1, idle=1))
        with pytest.raises(UpstreamFirstByteTimeout):
            await told(Forwarder(client), Upstream.at("x", peer.url), request(), rules=rules)
        assert len(peer.heads) == 1


def answering(status: bytes, *headers: Pair, times: int = 1000) -> Callable:
    """A script that answers with a status, and after so many times with 200."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        failed = exchange.number <= times
        await exchange.reply(b"no" if failed else b"yes", *headers, status=status if failed else b"200 OK")

    return script


@pytest.mark.parametrize("status", [b"500 Oops", b"501 Not", b"504 Late", b"429 Slow", b"404 None"])
async def test_answer_is_an_answer(client: HttpClient, status: bytes) -> None:
    async with Peer(answering(status)) as peer:
        forwarded = await Forwarder(client).forward(request(), Upstream.at("x", peer.url), b"/", RULES)
        await forwarded.body.aclose()
        assert (forwarded.status, len(peer.heads)) == (int(status[:3]), 1)


@pytest.mark.parametrize("status", [b"502 Bad", b"503 Busy"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT", "POST"])
async def test_not_now_is_asked_once_more_unless_it_may_be_done_twice(
    client: HttpClient, status: bytes, method: str
) -> None:
    async with Peer(answering(status, times=1)) as peer:
        body = Body(b"abc") if method in ("PUT", "POST") else None
        lines = [(b"content-length", b"3")] if body else []
        forwarded = await Forwarder(client).forward(
            request(method, *lines, body=body), Upstream.at("x", peer.url), b"/", RULES
        )
        await forwarded.body.aclose()
        again = method != "POST"
        assert forwarded.status == (200 if again else int(status[:3]))
        assert dict(forwarded.headers).get(b"x-upstream-attempts") == (b"2" if again else None)
        assert len(peer.heads) == 1 + again
    assert client.slots.in_use == 0


@pytest.mark.parametrize(("wait", "attempts"), [(b"0", 2), (b"1", 2), (b"2", 1), (b"3600", 1)])
async def test_short_wait_that_is_asked_for_is_kept_and_a_long_one_told(
    client: HttpClient, wait: bytes, attempts: int
) -> None:
    async with Peer(answering(b"503 Busy", (b"Retry-After", wait))) as peer:
        began = asyncio.get_running_loop().time()
        forwarded = await Forwarder(client).forward(request(), Upstream.at("x", peer.url), b"/", RULES)
        await forwarded.body.aclose()
        assert dict(forwarded.headers)[b"retry-after"] == wait
        assert (forwarded.status, len(peer.heads)) == (503, attempts)
        assert asyncio.get_running_loop().time() - began >= (int(wait) if attempts == 2 else 0)


async def test_another_attempt_never_begins_after_the_last_moment(client: HttpClient) -> None:
    async with Peer(answering(b"503 Busy", (b"Retry-After", b"1"))) as peer:
        rules = Rules(Timeouts(first_byte=10, idle=10, total=0.9))
        forwarded = await Forwarder(client).forward(request(), Upstream.at("x", peer.url), b"/", rules)
        await forwarded.body.aclose()
        assert (forwarded.status, len(peer.heads)) == (503, 1)


async def test_total_time_counts_over_all_attempts(client: HttpClient) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.number == 1:
            await asyncio.sleep(0.4)
            exchange.reset()
        else:
            await exchange.client_left()

    async with Peer(script) as peer:
        rules = Rules(Timeouts(first_byte=10, idle=10, total=1.0))
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamTotalTimeout):
            await told(Forwarder(client), Upstream.at("x", peer.url), request(), rules=rules)
        assert len(peer.heads) == 2
        assert asyncio.get_running_loop().time() - began < 1.35


@pytest.mark.parametrize("calls", [10, 60, 100])
async def test_all_failing_means_a_tenth_more_attempts_at_most(client: HttpClient, calls: int) -> None:
    async with Peer(answering(b"503 Busy")) as peer:
        upstream, forwarder = Upstream.at("x", peer.url), Forwarder(client)
        for _ in range(calls):
            await told(forwarder, upstream, request())
    assert calls < len(peer.heads) <= 1.1 * calls


# What is left alone


async def kept_away(forwarder: Forwarder, upstream: Upstream, **more: Any) -> int:
    """Fail until no more calls get through; tell after how many."""
    for number in range(100):
        with pytest.raises(UpstreamError) as failed:
            await told(forwarder, upstream, request("POST"), **more)
        if isinstance(failed.value, UpstreamUnavailable):
            assert failed.value.retry_after_seconds == 1
            return number
    raise AssertionError("calls still get through")


async def test_upstream_that_breaks_every_call_is_left_alone_and_taken_back(client: HttpClient) -> None:
    async with Peer(breaking(10_000)) as peer:
        upstream, forwarder = Upstream.at("x", peer.url), Forwarder(client)
        assert await kept_away(forwarder, upstream) == len(peer.heads) == FAILURES
        peer.script = echo
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(UpstreamUnavailable):
                    await told(forwarder, upstream, request())
                    break
                await asyncio.sleep(0.02)
        for _ in range(20):
            await told(forwarder, upstream, request())


async def test_upstream_that_only_hangs_is_left_alone(client: HttpClient) -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.client_left()

    async with Peer(silent) as peer:
        rules = Rules(Timeouts(first_byte=0.05, idle=1))
        assert await kept_away(Forwarder(client), Upstream.at("x", peer.url), rules=rules) == FAILURES


async def test_one_dead_instance_does_not_keep_calls_from_another(client: HttpClient) -> None:
    async with Peer(echo) as alive:
        forwarder, dead = Forwarder(client), refused()
        await kept_away(forwarder, Upstream.at("instance", dead))
        assert (await told(forwarder, Upstream.at("instance", alive.url), request()))[1] == b""
        forwarder.readmit(Upstream.at("instance", dead))
        with pytest.raises(UpstreamRefused):
            await told(forwarder, Upstream.at("instance", dead), request())


async def test_dead_address_is_passed_over_and_nobody_notices(client: HttpClient) -> None:
    port = free_port()
    async with Peer(echo) as alive:
        upstream, forwarder = Upstream.at("x", f"http://127.0.0.1:{port}", alive.url), Forwarder(client)
        attempts = []
        for _ in range(60):
            headers, _ = await told(forwarder, upstream, request("POST"))
            attempts.append(headers.get(b"x-upstream-attempts"))
        assert FAILURES <= attempts.count(b"2") <= FAILURES + 2
        async with Peer(echo, port) as healed:
            await until_asked(healed, forwarder, upstream)


async def until_asked(peer: Peer, forwarder: Forwarder, upstream: Upstream) -> None:
    """Call until an address is asked again."""
    async with asyncio.timeout(10):
        while True:
            seen = len(peer.heads)
            for _ in range(8):
                await told(forwarder, upstream, request())
            if len(peer.heads) - seen > 1:  # the first was the probe
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("status", [b"400 Bad", b"404 None", b"429 Slow", b"500 Oops", b"503 Busy"])
async def test_answer_of_any_status_is_a_sign_of_life(client: HttpClient, status: bytes) -> None:
    async with Peer(answering(status)) as peer:
        upstream, forwarder = Upstream.at("x", peer.url), Forwarder(client)
        for _ in range(4 * FAILURES):
            await told(forwarder, upstream, request("POST"))
        assert len(peer.heads) == 4 * FAILURES


async def test_given_up_calls_refused_bodies_and_a_full_share_are_no_failures() -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.client_left()

    settings = {"upstream_max_connections": 1, "gateway_pool_waiting": 0}
    async with client_of("direct", **settings) as client, Peer(silent) as peer:
        forwarder, upstream = Forwarder(client), Upstream.at("x", peer.url)
        for _ in range(2 * FAILURES):
            seen = len(peer.heads)
            call = asyncio.create_task(told(forwarder, upstream, request()))
            await until(lambda seen=seen: len(peer.heads) > seen)
            with pytest.raises(Overloaded):
                await told(forwarder, upstream, request())
            call.cancel()
            await asyncio.wait({call})
            with pytest.raises(ClientGone):
                await told(forwarder, upstream, request("POST", body=Body(b"abc", ClientGone())))
        peer.script = echo
        assert (await told(forwarder, upstream, request()))[1] == b""


async def test_health_looks_past_the_breaker_and_tells_it_nothing(client: HttpClient) -> None:
    async with Peer(breaking(10_000)) as peer:
        upstream, forwarder = Upstream.at("x", peer.url), Forwarder(client)
        for _ in range(3 * FAILURES):
            with pytest.raises(UpstreamBroken):
                await forwarder.probe(upstream, "/health", GENEROUS)
        await kept_away(forwarder, upstream)
        peer.script = echo
        assert (await forwarder.probe(upstream, "/health", GENEROUS)).status == 200
        reached = await forwarder.probe(Upstream.at("y", refused(), peer.url), "/health", GENEROUS)
        assert reached.status == 200


async def test_budget_of_one_upstream_is_not_spent_by_another(client: HttpClient) -> None:
    async with Peer(breaking(10_000)) as bad, Peer(breaking(1)) as good:
        forwarder = Forwarder(client)
        for _ in range(20):
            with pytest.raises(UpstreamError):
                await told(forwarder, Upstream.at("bad", bad.url), request())
        headers, _ = await told(forwarder, Upstream.at("good", good.url), request())
    assert headers[b"x-upstream-attempts"] == b"2"


async def test_own_question_is_tried_again_like_any_other(client: HttpClient) -> None:
    async with Peer(breaking(1)) as peer:
        upstream = Upstream.at("x", refused(), peer.url + "/")
        answer = await Forwarder(client).ask("GET", Upstream.at("x", peer.url), "/a", GENEROUS)
        assert answer.status == 200
        answer = await Forwarder(client).ask("POST", upstream, "/b", GENEROUS, {"c": 1})
    assert answer.content in (b'{"c":1}', b'{"c": 1}')
    assert [head.target for head in peer.heads] == [b"/a", b"/a", b"/b"]


async def test_own_post_is_never_sent_twice(client: HttpClient) -> None:
    async with Peer(breaking(9)) as peer:
        with pytest.raises(UpstreamBroken):
            await Forwarder(client).ask("POST", Upstream.at("x", peer.url), "/b", GENEROUS, {})
    assert len(peer.heads) == 1


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


async def test_full_pool_is_not_a_reason_to_try_again() -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.client_left()

    settings = {"upstream_max_connections": 1, "gateway_pool_waiting": 0}
    async with client_of("reqwest", **settings) as client, Peer(silent) as peer:
        forwarder, upstream = Forwarder(client), Upstream.at("x", peer.url)
        call = asyncio.create_task(told(forwarder, upstream, request()))
        await until(lambda: len(peer.heads) == 1)
        with pytest.raises(Overloaded):
            await told(forwarder, upstream, request())
        call.cancel()
        await asyncio.wait({call})
