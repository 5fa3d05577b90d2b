"""Which upstreams the forwarding core leaves alone, and when it takes them back."""

import asyncio
import contextlib
from typing import Any

import pytest

from backend.errors import (
    ClientGone,
    Overloaded,
    UpstreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
)
from backend.services.breaker import FAILURES
from backend.services.forwarding import Forwarder, Rules, Upstream
from backend.services.http_client import HttpClient
from backend.services.policies import Timeouts
from tests.support.forwarding import Body, answering, breaking, client, refused, request, told
from tests.support.peer import Peer, echo, silent, until
from tests.support.ports import free_port
from tests.support.upstream import GENEROUS, client_of

__all__ = ["client"]

pytestmark = pytest.mark.asyncio


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
