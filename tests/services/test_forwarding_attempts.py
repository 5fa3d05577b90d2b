"""What the forwarding core tries again, how often, and what it never sends twice."""

import asyncio

import pytest

from backend.errors import (
    Overloaded,
    UpstreamBroken,
    UpstreamError,
    UpstreamFirstByteTimeout,
    UpstreamRefused,
    UpstreamTotalTimeout,
)
from backend.services.forwarding import Forwarder, Rules, Upstream
from backend.services.http_client import HttpClient
from backend.services.policies import Timeouts
from tests.support.forwarding import RULES, Body, answering, breaking, client, first, refused, request, told
from tests.support.peer import Exchange, Peer, echo, silent, until
from tests.support.upstream import GENEROUS, client_of
from tests.support.wire import unanswering

__all__ = ["client"]

pytestmark = pytest.mark.asyncio


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
    async with Peer(silent) as peer:
        rules = Rules(Timeouts(first_byte=0.1, idle=1))
        with pytest.raises(UpstreamFirstByteTimeout):
            await told(Forwarder(client), Upstream.at("x", peer.url), request(), rules=rules)
        assert len(peer.heads) == 1


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
            await asyncio.sleep(0.6)
            exchange.reset()
        else:
            await exchange.client_left()

    async with Peer(script) as peer:
        rules = Rules(Timeouts(first_byte=10, idle=10, total=2.0))
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamTotalTimeout):
            await told(Forwarder(client), Upstream.at("x", peer.url), request(), rules=rules)
        assert len(peer.heads) == 2
        assert asyncio.get_running_loop().time() - began < 2.55


@pytest.mark.parametrize("calls", [10, 60, 100])
async def test_all_failing_means_a_tenth_more_attempts_at_most(client: HttpClient, calls: int) -> None:
    async with Peer(answering(b"503 Busy")) as peer:
        upstream, forwarder = Upstream.at("x", peer.url), Forwarder(client)
        for _ in range(calls):
            await told(forwarder, upstream, request())
    assert calls < len(peer.heads) <= 1.1 * calls


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


async def test_full_pool_is_not_a_reason_to_try_again() -> None:
    settings = {"upstream_max_connections": 1, "gateway_pool_waiting": 0}
    async with client_of("reqwest", **settings) as client, Peer(silent) as peer:
        forwarder, upstream = Forwarder(client), Upstream.at("x", peer.url)
        call = asyncio.create_task(told(forwarder, upstream, request()))
        await until(lambda: len(peer.heads) == 1)
        with pytest.raises(Overloaded):
            await told(forwarder, upstream, request())
        call.cancel()
        await asyncio.wait({call})
