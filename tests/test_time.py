"""The time of day moves by hours while the gateway serves; only tokens may care."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.demo import Demo, demo
from tests.support.processes import BOTH, clean, ended

HOURS = 3600.0
LIFE_SECONDS = 18_000
# Python loads it before anything else: the whole process, its libraries included, lives by a moved clock.
MOVED = """
import time
real, place = time.time, {place!r}
def moved():
    with open(place) as file:
        return real() + float(file.read())
time.time = moved
time.time_ns = lambda: int(moved() * 1e9)
"""


@pytest.fixture
def clock(tmp_path: Path) -> Callable[[float], None]:
    """Set how far the gateway's time of day is off."""
    place = tmp_path / "moved-by"

    def move(seconds: float) -> None:
        fresh = place.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.rename(place)

    move(0)
    (tmp_path / "sitecustomize.py").write_text(MOVED.format(place=str(place)))
    return move


async def status(world: Demo) -> httpx.Response:
    return await world.http.get("/api/token_status")


@BOTH
@pytest.mark.parametrize("hours", [2, -2])
@pytest.mark.asyncio
async def test_a_clock_that_jumps_ends_no_call_no_connection_and_no_session(
    tmp_path: Path, clock: Callable[[float], None], server: str, hours: int
) -> None:
    async with demo(tmp_path, "--demo-latency=2", f"--server={server}", PYTHONPATH=str(tmp_path)) as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)  # kept over the jump
        ping = b"GET /api/ping HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(ping)
        await reader.readuntil(b"pong")
        calls = [asyncio.create_task(world.preview()) for _ in range(10)]
        await world.until_open(10)
        clock(hours * HOURS)
        writer.write(ping)
        await asyncio.wait_for(reader.readuntil(b"pong"), 10)
        writer.close()
        assert [answer.status_code for answer in await asyncio.gather(*calls)] == [200] * 10
        await world.until_healthy()
        # A token of a future that has not come is refused; an earlier one lives on, two hours older.
        seen = await status(world)
        assert seen.status_code == (200 if hours > 0 else 401)
        if hours > 0:
            assert (
                LIFE_SECONDS - 2 * HOURS - 120 < seen.json()["expires_in_seconds"] <= LIFE_SECONDS - 2 * HOURS
            )
        clock(0)
        seen = await status(world)
        assert seen.status_code == 200  # the same sign-in, as if nothing had been
        assert LIFE_SECONDS - 120 < seen.json()["expires_in_seconds"] <= LIFE_SECONDS
        world.gateway.process.terminate()
        assert await ended(world.gateway) == 0
    assert clean(world.gateway.log)


@pytest.mark.asyncio
async def test_a_token_is_off_by_exactly_the_leeway(tmp_path: Path, clock: Callable[[float], None]) -> None:
    async with demo(tmp_path, "--demo-latency=0", PYTHONPATH=str(tmp_path)) as world:
        account = {"email": "student@demo.local", "password": "Demo-pass1!"}
        token = (await world.http.post("/api/login", json=account)).json()["token"]
        world.http.headers["Authorization"] = f"Bearer {token}"
        issued = _claims(token)["iat"]

        async def seen_at(moment: float) -> int:
            """The status with the clock at this moment after the issue; clocks go on, so within a second."""
            clock(issued + moment - time.time())
            return (await status(world)).status_code

        assert await seen_at(-4.0) == 200
        assert await seen_at(-8.0) == 401
        assert await seen_at(LIFE_SECONDS + 2.0) == 200
        assert await seen_at(LIFE_SECONDS + 5.0) == 401
        assert await seen_at(0.0) == 200


def _claims(token: str) -> dict[str, int]:
    payload = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))
