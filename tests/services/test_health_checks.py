"""Health checks against peers on real sockets: whom they ask, how often, and what they take for what."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from backend.services.forwarding import Forwarder, Upstream
from backend.services.health_checks import HealthChecks
from tests.support.peer import Exchange, Peer, Script, silent, until
from tests.support.ports import free_port
from tests.support.upstream import GENEROUS, client_of
from tests.support.wire import unanswering

pytestmark = pytest.mark.asyncio

EVERY_SECONDS = 0.2
# Some checks and their answers, on a machine with other work.
PATIENCE_SECONDS = 15.0


async def ok(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.reply()


def answering(status: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(status=status)

    return script


def holding(release: asyncio.Event, health: Script) -> Script:
    """Answer calls when they are released, and checks as told."""

    async def script(exchange: Exchange) -> None:
        if exchange.head.target == b"/health":
            await health(exchange)
        else:
            await release.wait()
            await exchange.reply(b"whole")

    return script


@asynccontextmanager
async def checking(
    *urls: str, every: float = EVERY_SECONDS, transport: str = "direct"
) -> AsyncIterator[tuple[Forwarder, Upstream]]:
    async with client_of(transport) as client:
        forwarder, upstream = Forwarder(client), Upstream.at("x", *urls)
        checks = HealthChecks(forwarder, [upstream, upstream], every_seconds=every)
        checks.start()
        try:
            yield forwarder, upstream
        finally:
            await checks.aclose()


async def until_out(forwarder: Forwarder, upstream: Upstream, *out: bool) -> None:
    traffic = forwarder.traffic(upstream)
    await until(lambda: tuple(traffic.is_out(one) for one in upstream.origins) == out, PATIENCE_SECONDS)


@pytest.mark.parametrize("transport", ["direct", "reqwest", "httpx"])
async def test_address_where_nobody_is_goes_out_before_any_call_finds_it(transport: str) -> None:
    port = free_port()
    async with (
        Peer(ok) as alive,
        checking(alive.url, f"http://127.0.0.1:{port}", transport=transport) as (forwarder, upstream),
    ):
        await until_out(forwarder, upstream, False, True)
        for _ in range(10):
            answer = await forwarder.ask("POST", upstream, "/x", GENEROUS, {})
            assert (answer.status, answer.attempts) == (200, 1)
        async with Peer(ok, port) as healed:
            await until_out(forwarder, upstream, False, False)
            assert [head.target for head in healed.heads] == [b"/health"]


@pytest.mark.parametrize("status", [b"200 OK", b"404 None", b"500 Oops", b"503 Busy"])
async def test_whatever_answers_is_there(status: bytes) -> None:
    async with (
        Peer(answering(status)) as one,
        Peer(ok) as other,
        checking(one.url, other.url) as (forwarder, upstream),
    ):
        await until(lambda: len(one.heads) >= 4, PATIENCE_SECONDS)
        assert not forwarder.traffic(upstream).is_out(one.url)
        assert {head.target for head in one.heads} == {b"/health"}


async def test_address_that_hangs_goes_out_and_its_neighbours_calls_go_on() -> None:
    release = asyncio.Event()
    async with (
        Peer(ok) as one,
        Peer(holding(release, ok)) as other,
        checking(one.url, other.url) as (forwarder, upstream),
    ):
        call = asyncio.create_task(forwarder.ask("POST", upstream.apart()[1], "/x", GENEROUS, {}))
        await until(lambda: any(head.target == b"/x" for head in other.heads), PATIENCE_SECONDS)
        one.script = silent
        await until_out(forwarder, upstream, True, False)
        release.set()
        assert (await call).content == b"whole"


async def test_call_in_flight_on_an_address_that_goes_out_goes_on() -> None:
    async def resetting(exchange: Exchange) -> None:
        exchange.reset()

    release = asyncio.Event()
    async with (
        Peer(holding(release, resetting)) as one,
        Peer(ok) as other,
        checking(one.url, other.url) as (forwarder, upstream),
    ):
        call = asyncio.create_task(forwarder.ask("POST", upstream.apart()[0], "/x", GENEROUS, {}))
        await until_out(forwarder, upstream, True, False)
        await until(lambda: any(head.target == b"/x" for head in one.heads), PATIENCE_SECONDS)
        release.set()
        assert (await call).content == b"whole"


async def test_address_that_answers_nothing_but_its_calls_stays_in() -> None:
    """Some services have a few places, and let health wait behind their work."""
    release = asyncio.Event()
    script = holding(release, silent)
    async with Peer(script) as one, Peer(script) as other, client_of("direct") as client:
        forwarder, upstream = Forwarder(client), Upstream.at("x", one.url, other.url)
        calls = [asyncio.create_task(forwarder.ask("POST", upstream, "/x", GENEROUS, {})) for _ in range(2)]
        await until(lambda: len(one.heads) == len(other.heads) == 1, PATIENCE_SECONDS)
        checks = HealthChecks(forwarder, [upstream], every_seconds=EVERY_SECONDS)
        checks.start()
        traffic = forwarder.traffic(upstream)
        await until(lambda: all(one.silent > 3 for one in traffic.addresses.values()), PATIENCE_SECONDS)
        assert forwarder.loads()["x"].open_breakers == 0
        release.set()
        await asyncio.gather(*calls)
        await until(lambda: forwarder.loads()["x"].open_breakers == 1, PATIENCE_SECONDS)  # and never both
        seen = max(one.silent for one in traffic.addresses.values())
        await until(
            lambda: max(one.silent for one in traffic.addresses.values()) > seen + 3, PATIENCE_SECONDS
        )
        assert forwarder.loads()["x"].open_breakers == 1
        await checks.aclose()


async def test_address_that_answers_no_handshake_goes_out() -> None:
    with unanswering() as port:
        async with Peer(ok) as alive:
            urls = alive.url, f"http://127.0.0.1:{port}"
            async with checking(*urls) as (forwarder, upstream):
                await until_out(forwarder, upstream, False, True)


async def test_kept_connection_that_was_closed_is_no_sign_of_death() -> None:
    async def closing(exchange: Exchange) -> None:
        if exchange.number % 2:
            await exchange.reply()
        else:
            exchange.reset()

    async with (
        Peer(closing) as one,
        Peer(ok) as other,
        checking(one.url, other.url) as (forwarder, upstream),
    ):
        went_out = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(one.heads) < 8:
                went_out.append(forwarder.traffic(upstream).is_out(one.url))
                await asyncio.sleep(0.01)
        assert not any(went_out)


async def test_one_address_alone_is_asked_only_while_it_is_out() -> None:
    async def failing(exchange: Exchange) -> None:
        await exchange.body()
        if broken:
            exchange.reset()
        else:
            await exchange.reply()

    broken = False
    async with Peer(ok) as beside, Peer(failing) as peer, AsyncExitStack() as stack:
        client = await stack.enter_async_context(client_of("direct"))
        forwarder = Forwarder(client)
        alone, several = (
            Upstream.at("x", peer.url),
            Upstream.at("y", beside.url, f"http://127.0.0.1:{free_port()}"),
        )
        checks = HealthChecks(forwarder, [alone, several], every_seconds=EVERY_SECONDS)
        checks.start()
        stack.push_async_callback(checks.aclose)
        await until(lambda: len(beside.heads) >= 4, PATIENCE_SECONDS)
        assert peer.heads == []
        broken = True
        traffic = forwarder.traffic(alone)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not traffic.is_out(peer.url):
                await asyncio.gather(forwarder.ask("POST", alone, "/x", GENEROUS, {}), return_exceptions=True)
        # Asked once more where a connection broke: only then it counts.
        await until(lambda: sum(head.target == b"/health" for head in peer.heads) > 1, PATIENCE_SECONDS)
        broken = False
        await until(lambda: not traffic.is_out(peer.url), PATIENCE_SECONDS)
        assert (await forwarder.ask("POST", alone, "/x", GENEROUS, {})).status == 200


async def test_checks_of_one_address_never_overlap_and_come_as_often_as_set() -> None:
    most = here = 0

    async def hanging(exchange: Exchange) -> None:
        nonlocal most, here
        here += 1
        most = max(most, here)
        await exchange.client_left()
        here -= 1

    clock = asyncio.get_running_loop().time
    async with Peer(hanging) as one, Peer(ok) as other, checking(one.url, other.url):
        began = clock()
        await until(lambda: len(other.heads) >= 10, PATIENCE_SECONDS)
        # The first comes at once to a whole interval later, the others a fifth early at most.
        assert clock() - began >= 9 * 0.8 * EVERY_SECONDS
        assert most == 1


async def test_dice_set_the_hour_of_the_first_check_and_shorten_the_wait_for_the_others() -> None:
    async with Peer(ok) as one, Peer(ok) as other, client_of("direct") as client:
        checks = HealthChecks(
            Forwarder(client), [Upstream.at("x", one.url, other.url)], every_seconds=60, dice=lambda: 0.0
        )
        checks.start()
        await until(lambda: len(one.heads) == len(other.heads) == 1, PATIENCE_SECONDS)
        assert repr(checks) == "<HealthChecks of 2 addresses>"
        await checks.aclose()


async def test_closing_ends_a_check_that_hangs_and_leaves_nothing() -> None:
    async with Peer(silent) as one, Peer(silent) as other, client_of("direct") as client:
        before = asyncio.all_tasks()
        checks = HealthChecks(
            Forwarder(client), [Upstream.at("x", one.url, other.url)], every_seconds=60, dice=lambda: 0.0
        )
        checks.start()
        await until(lambda: one.open == other.open == 1, PATIENCE_SECONDS)
        await checks.aclose()
        await until(lambda: one.open == other.open == 0, PATIENCE_SECONDS)
        assert {task for task in asyncio.all_tasks() - before if task.get_name() == "health check"} == set()


async def test_a_change_is_logged_once_by_number_and_not_by_address(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    caplog.set_level(logging.WARNING)
    async with Peer(ok) as alive, checking(alive.url, f"http://127.0.0.1:{port}") as (forwarder, upstream):
        await until_out(forwarder, upstream, False, True)
        seen = len(alive.heads)
        await until(lambda: len(alive.heads) > seen + 4, PATIENCE_SECONDS)
        async with Peer(ok, port):
            await until_out(forwarder, upstream, False, False)
    lines = [record.getMessage() for record in caplog.records if "health_checks" in record.name]
    assert lines == ["address 2 of x gets no calls: down", "address 2 of x is back"]
