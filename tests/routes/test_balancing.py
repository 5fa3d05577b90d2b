"""A service with several addresses behind the served gateway: one dies, is slow, comes back."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Served, free_port, mount, serving, settings_for
from tests.support.peer import Exchange, Peer, until

pytestmark = pytest.mark.asyncio

CHECK_SECONDS = 0.4
# A check that is due, its answer, and a machine with other work.
GENEROUS_SECONDS = 10.0
CHECK = b"/health"
CALLERS = 4


async def echo(exchange: Exchange) -> None:
    await exchange.reply(await exchange.body())


def calls(peer: Peer) -> int:
    """How many calls came, health checks aside."""
    return sum(head.target != CHECK for head in peer.heads)


async def addresses(served: Served, name: str = "mount /m") -> list[dict[str, Any]]:
    answer = await served.http.get("/stats")
    assert answer.status_code == 200
    return list(answer.json()["upstreams"][name]["addresses"])


async def until_states(served: Served, *states: str, name: str = "mount /m") -> float:
    """Wait until `/stats` tells these states, in the order of the setting; return after how many seconds."""
    began = time.monotonic()
    async with asyncio.timeout(GENEROUS_SECONDS):
        while [one["state"] for one in await addresses(served, name)] != [*states]:  # noqa: ASYNC110 - asked
            await asyncio.sleep(0.01)
    return time.monotonic() - began


@asynccontextmanager
async def gateway_before(folder: Path, *urls: str, **more: Any) -> AsyncIterator[Served]:
    mounts = [mount("/m", ",".join(urls), methods=["GET", "POST"], timeout=5, **more)]
    settings = settings_for(folder, gateway_mounts=mounts, gateway_check_seconds=CHECK_SECONDS)
    async with serving(settings) as served:
        yield served


@asynccontextmanager
async def traffic(served: Served) -> AsyncIterator[list[tuple[float, int]]]:
    """Call all the time, by CALLERS at once; the list tells of each when it ended and its status."""
    told: list[tuple[float, int]] = []

    async def one() -> None:
        while True:
            answer = await served.http.post("/m/x", content=b"abc")
            told.append((time.monotonic(), answer.status_code))
            await asyncio.sleep(0.005)

    tasks = [asyncio.create_task(one()) for _ in range(CALLERS)]
    try:
        yield told
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended


async def test_killed_address_costs_a_moment_is_shown_and_comes_back_by_one_check(tmp_path: Path) -> None:
    port = free_port()
    async with (
        Peer(echo) as alive,
        gateway_before(tmp_path, f"http://127.0.0.1:{port}", alive.url) as served,
        AsyncExitStack() as life,
        traffic(served) as told,
    ):
        first = await life.enter_async_context(Peer(echo, port))
        await until_states(served, "healthy", "healthy")
        await until(lambda: calls(first) > 20 and calls(alive) > 20, GENEROUS_SECONDS)

        killed = time.monotonic()
        await life.aclose()
        await until_states(served, "ejected", "healthy")
        seen = len(told)
        await until(lambda: len(told) > seen + 40, GENEROUS_SECONDS)
        failed = [when - killed for when, status in told if status != 200]
        assert len(failed) <= CALLERS  # those that were on their way
        assert max(failed, default=0) < CHECK_SECONDS + 1

        healed = await life.enter_async_context(Peer(echo, port))
        await until(lambda: calls(healed) > 20, GENEROUS_SECONDS)
        assert [head.target for head in healed.heads[:2]] == [CHECK, b"/x"]  # one check, then calls
        await until_states(served, "healthy", "healthy")
        assert len([status for _, status in told if status != 200]) == len(failed)
