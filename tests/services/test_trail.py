import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.trail import TRAIL, Trail, shared

seconds = st.floats(0, 1000)


@given(seconds, seconds, seconds)
def test_times_are_told_in_milliseconds_and_never_below_nothing(
    wait: float, upstream: float, reading: float
) -> None:
    trail = Trail()
    trail.wait, trail.upstream, trail.reading = wait, upstream, reading
    trail.answered()
    found = re.fullmatch(rb"gateway;dur=([\d.]+), wait;dur=([\d.]+), upstream;dur=([\d.]+)", trail.timing())
    assert found is not None
    assert [float(value) for value in found.groups()][1:] == pytest.approx(
        [wait * 1e3, upstream * 1e3], abs=0.006
    )


def test_own_time_is_what_is_left() -> None:
    trail = Trail()
    trail.began -= 10
    trail.wait, trail.upstream, trail.reading = 1.0, 5.0, 3.0
    trail.answered()
    assert trail.own == pytest.approx(1.0, abs=0.05)


@pytest.mark.asyncio
async def test_shared_work_leaves_its_own_trail_under_the_same_request_id() -> None:
    mine = Trail("mine-1234")
    TRAIL.set(mine)

    async def work() -> Trail:
        TRAIL.get().upstream += 7
        return TRAIL.get()

    theirs = await shared(work())
    assert theirs is not mine
    assert (theirs.request_id, theirs.upstream, mine.upstream) == ("mine-1234", 7, 0)


@pytest.mark.asyncio
async def test_waiting_for_shared_work_is_an_upstreams_time_for_each_who_waits() -> None:
    release = asyncio.Event()
    task = shared(release.wait())
    trails = [Trail() for _ in range(3)]

    async def wait(trail: Trail) -> None:
        with trail.waiting("catalogue"):
            await asyncio.shield(task)

    waiters = [asyncio.create_task(wait(trail)) for trail in trails]
    await asyncio.sleep(0.05)
    release.set()
    await asyncio.gather(*waiters)
    assert all(trail.upstream >= 0.04 and trail.upstream_name == "catalogue" for trail in trails)
