"""The benchmarks of overload, outages and stores: their upstream, their arithmetic."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio

from benchmarks.balance import Balanced, Watched
from benchmarks.balance import options as balance_options
from benchmarks.calls import WARM_CALLS, Told, in_turn, offered, paced
from benchmarks.dependencies import judged
from benchmarks.dependencies import options as dependencies_options
from benchmarks.outage import options as outage_options
from benchmarks.overload import Loaded, loaded
from benchmarks.overload import options as overload_options
from benchmarks.processes import Failure
from benchmarks.service import Service
from benchmarks.stream import head

GET = head("GET", "/x", "here", {})
POLITE = b"HTTP/1.1 503 Busy\r\nRetry-After: 1"


@pytest_asyncio.fixture
async def service() -> AsyncIterator[Service]:
    opened = Service(places=2, seconds=0.05)
    await opened.start()
    yield opened
    await opened.stop()


@pytest.mark.asyncio
async def test_upstream_works_on_as_many_calls_as_it_has_places(service: Service) -> None:
    began = asyncio.get_running_loop().time()
    told = await offered(("127.0.0.1", service.port), GET, 1000, 0.01)
    assert asyncio.get_running_loop().time() - began >= 0.2
    assert [one.status for one in told] == [200] * 10
    assert service.asked == 10
    assert 2 < service.most <= 10
    assert service.here == 0


@pytest.mark.asyncio
async def test_upstream_fails_as_it_is_told(service: Service) -> None:
    address = ("127.0.0.1", service.port)
    service.mode = "busy"
    assert {one.status for one in await in_turn(address, GET, 1, 0.5)} == {503}
    service.mode = "resets"
    with pytest.raises(Failure):
        await in_turn(address, GET, 1, 0.5)
    await service.stop()
    with pytest.raises(Failure, match="no connection"):
        await in_turn(address, GET, 1, 0.5)
    service.mode = "answers"
    await service.start()
    assert {one.status for one in await in_turn(address, GET, 1, 0.5)} == {200}


@pytest.mark.asyncio
async def test_paced_calls_go_on_when_the_server_ends_a_kept_connection() -> None:
    """A dashboard that was watched for minutes lost its load to one that had been idle."""
    served: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            for _ in range(WARM_CALLS + 1):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        latencies = await paced(server.sockets[0].getsockname()[:2], GET, 10, 0.5)
        await asyncio.wait([task for task in served if task is not None], timeout=10)
    assert (len(latencies), len(served)) == (5, 2)


def told(status: int, seconds: float, *, sent: float = 0.0, head: bytes = POLITE) -> Told:
    return Told(sent, seconds, status, head)


def verdicts(found: Loaded) -> dict[str, str]:
    return {what.split(",")[0].split(" of ")[0]: limit.verdict(value) for what, value, limit in found.lines()}


def test_rush_is_judged_by_what_was_accepted_and_how_the_rest_was_told() -> None:
    peak = [told(200, 0.4, sent=n / 20) for n in range(80)]
    good = [told(200, 0.6, sent=n / 20) for n in range(80)]
    rest = [told(503, 0.01) for _ in range(240)]
    fine = loaded("x", 4.0, peak, [*good, *rest], 8, peak[:1], peak[:1])
    assert fine.peak == 20
    assert (fine.p99, fine.peak_p99, fine.refused) == (600, 400, 240)
    assert fine.goodput == pytest.approx(80 / (79 / 20 + 0.6))
    assert (fine.told_when, fine.shed_p99) == (1.0, 10)
    rude = loaded("x", 4.0, peak, [*good, *rest, told(503, 0.2, head=b"HTTP/1.1 503 Busy")], 9, good, good)
    assert rude.told_when < 1
    assert verdicts(rude)["share with 503 and Retry-After"] == "short"
    assert verdicts(rude)["calls at the upstream"] == "short"
    nothing = loaded("x", 4.0, peak, rest, 8, peak, peak)
    assert (nothing.goodput, nothing.p99) == (0, float("inf"))


def test_outage_of_a_store_is_judged_by_what_failed_where_and_until_when() -> None:
    calm = [told(200, 0.01, sent=float(n)) for n in range(10)]
    refused = [told(503, 0.1, sent=4.0), told(503, 0.1, sent=7.0)]
    fine = judged("x", calm, calm, [told(401, 0.01), told(503, 0.01)], [*calm, *refused], returned=6.0)
    assert (fine.sign_ins_refused, fine.sign_ins_rude, fine.opened) == (2, 0, 0)
    assert fine.back_seconds == pytest.approx(1.1)
    assert {limit.verdict(value) for _, value, limit in fine.lines() if limit} <= {"ok", "ok, goal"}
    bad = judged(
        "x",
        [*calm, told(502, 0.1, sent=20.0)],
        [*calm, told(401, 0.1)],
        [told(200, 0.01)],
        [told(503, 7.0, head=b"HTTP/1.1 503 Busy"), told(500, 0.1)],
        returned=6.0,
    )
    shorts = [value for _, value, limit in bad.lines() if limit and limit.verdict(value) == "short"]
    assert shorts == [1, 1, 1, 2, 7.0, pytest.approx(14.1)]


def test_second_address_is_judged_by_what_failed_and_how_soon_it_was_back() -> None:
    fine = Balanced("x", 0, 0.0, 0.1, 1.8, 1, 14.0, 200.0, 1700.0, 9.0, 1.0)
    assert {limit.verdict(value) for _, value, limit in fine.lines()} <= {"ok", "ok, goal"}
    bad = Balanced("x", 6, 2.5, 3.0, 2.5, 2, 50.0, 1700.0, 1700.0, 51.0, 0.9)
    assert {limit.verdict(value) for _, value, limit in bad.lines()} == {"short"}


@pytest.mark.asyncio
async def test_health_checks_and_calls_are_told_apart() -> None:
    service = Watched()
    await service.start()
    address = ("127.0.0.1", service.port)
    await offered(address, head("GET", "/health", "here", {}), 1000, 0.002)
    assert service.calls == []
    await offered(address, GET, 1000, 0.003)
    assert (len(service.noted), len(service.calls)) == (5, 3)
    await service.stop()


def test_commands_take_a_minute_by_themselves() -> None:
    assert (overload_options([]).seconds, overload_options([]).server) == (4.0, None)
    assert (balance_options([]).seconds, balance_options([]).server) == (3.0, "hypercorn")
    assert (dependencies_options([]).seconds, dependencies_options([]).server) == (10.0, "hypercorn")
    assert (outage_options([]).seconds, outage_options([]).server) == (30.0, "hypercorn")
