"""The server as a process: how it stops, and how it keeps its workers."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.support.demo import demo
from tests.support.gateway import spawned
from tests.support.peer import until
from tests.support.processes import BOTH, clean, ended, refuses


@BOTH
@pytest.mark.asyncio
async def test_a_hundred_calls_in_flight_are_all_answered_after_sigterm(tmp_path: Path, server: str) -> None:
    async with demo(tmp_path, "--demo-latency=3", f"--server={server}") as world:
        calls = [asyncio.create_task(world.preview()) for _ in range(100)]
        await world.until_open(100)
        world.gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: refuses(world.port), 2.5)
        assert world.gateway.process.poll() is None  # it refuses while it still works
        answers = await asyncio.gather(*calls)
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.content[:4] for answer in answers} == {b"\x89PNG"}
        assert await ended(world.gateway) == 0
    assert clean(world.gateway.log)


@BOTH
@pytest.mark.asyncio
async def test_an_idle_server_with_open_connections_stops_at_once(tmp_path: Path, server: str) -> None:
    async with demo(tmp_path, "--demo-latency=0", f"--server={server}") as world:
        await asyncio.gather(*(world.http.get("/api/ping") for _ in range(20)))  # kept alive
        began = time.monotonic()
        world.gateway.process.send_signal(signal.SIGTERM)
        assert await ended(world.gateway) == 0
        assert time.monotonic() - began < 8  # well within the drain time of 10
    assert clean(world.gateway.log)


@BOTH
@pytest.mark.asyncio
async def test_a_call_that_hangs_is_cut_when_the_drain_time_is_over(tmp_path: Path, server: str) -> None:
    async with demo(tmp_path, "--demo-latency=0", f"--server={server}", GATEWAY_DRAIN_SECONDS="1") as world:
        hanging = await world.hang()
        began = time.monotonic()
        world.gateway.process.send_signal(signal.SIGTERM)
        code = await ended(world.gateway)
        assert 0.9 < time.monotonic() - began < 15
        with pytest.raises(httpx.HTTPError):
            (await hanging).raise_for_status()
        assert code == 0
        with contextlib.suppress(httpx.TransportError):  # the demo's world ends with its gateway
            await world.until_open(0)  # the upstream was told, too


@BOTH
@pytest.mark.asyncio
async def test_a_second_sigterm_ends_at_once(tmp_path: Path, server: str) -> None:
    async with demo(tmp_path, "--demo-latency=0", f"--server={server}", GATEWAY_DRAIN_SECONDS="60") as world:
        hanging = await world.hang()
        world.gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: refuses(world.port))
        began = time.monotonic()
        world.gateway.process.send_signal(signal.SIGTERM)
        assert await ended(world.gateway) != 0
        assert time.monotonic() - began < 5
        with pytest.raises(httpx.HTTPError):
            (await hanging).raise_for_status()


def test_interrupt_from_the_keyboard_stops_too(tmp_path: Path) -> None:
    with spawned(tmp_path) as gateway:
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.process.wait(20) == 0
    assert clean(gateway.log)


def test_a_sign_in_holds_on_every_worker(tmp_path: Path) -> None:
    """The token was issued by one of them; the others learn of it."""

    async def main() -> None:
        async with demo(tmp_path, "--demo-latency=0", "--workers=2") as world:
            for _ in range(20):
                async with httpx.AsyncClient(
                    base_url=world.gateway.url, headers=world.http.headers, trust_env=False
                ) as fresh:
                    assert (await fresh.get("/api/token_status")).status_code == 200
            assert world.gateway.stop() == 0

    asyncio.run(main())
