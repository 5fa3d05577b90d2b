import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from backend.errors import NotAllowed, NotAuthenticated, Overloaded, StoreUnavailable
from backend.services.panel import Panel
from backend.services.viewers import MOST_UNREAD, MOST_VIEWERS, Pace, Viewer, Viewers
from tests.support.peer import until


class Picture:
    """Stands in for the panel: counts how often it was looked at."""

    def __init__(self) -> None:
        self.looks = 0
        self.forgotten = 0
        self.broken = False

    def opening(self) -> bytes:
        return b"opening %d" % self.looks

    async def news(self) -> bytes:
        await asyncio.sleep(0)
        if self.broken:
            raise RuntimeError("no figures")
        self.looks += 1
        return b"news %d" % self.looks

    def forget(self) -> None:
        self.forgotten += 1


@asynccontextmanager
async def shown(look_seconds: float = 0.01, heartbeat: float = 60) -> AsyncIterator[tuple[Viewers, Picture]]:
    picture = Picture()
    viewers = Viewers(cast(Panel, picture), Pace(look=look_seconds, heartbeat=heartbeat))
    try:
        yield viewers, picture
    finally:
        await viewers.aclose()


@pytest.mark.asyncio
async def test_a_viewer_gets_the_whole_picture_and_then_the_news() -> None:
    async with shown() as (viewers, _):
        viewer = viewers.join()
        assert await viewer.read() == b"opening 1"
        assert await viewer.read() == b"news 2"
        assert await viewer.read() == b"news 3"


@pytest.mark.asyncio
async def test_one_producer_serves_all_of_them() -> None:
    async with shown(look_seconds=0.05) as (viewers, picture):
        crowd = [viewers.join() for _ in range(MOST_VIEWERS)]
        first = [await viewer.read() for viewer in crowd]
        assert set(first) == {b"opening 1"}
        assert {await viewer.read() for viewer in crowd} == {b"news 2"}
        assert picture.looks == 2


@pytest.mark.asyncio
async def test_who_comes_later_does_not_make_it_look_again() -> None:
    async with shown(look_seconds=60) as (viewers, picture):
        assert await viewers.join().read() == b"opening 1"
        for _ in range(20):
            assert await viewers.join().read() == b"opening 1"
        assert picture.looks == 1


@pytest.mark.asyncio
async def test_while_nobody_looks_nothing_happens() -> None:
    async with shown() as (viewers, picture):
        viewer = viewers.join()
        await viewer.read()
        await viewer.aclose()
        await until(lambda: picture.forgotten == 1)
        looks = picture.looks
        await asyncio.sleep(0.1)
        assert picture.looks == looks
        assert len(viewers) == 0
        assert await viewers.join().read() == b"opening %d" % (looks + 1)


@pytest.mark.asyncio
async def test_there_is_room_for_so_many_and_again_when_one_has_left() -> None:
    async with shown() as (viewers, _):
        crowd = [viewers.join() for _ in range(MOST_VIEWERS)]
        with pytest.raises(Overloaded) as refused:
            viewers.join()
        assert refused.value.retry_after_seconds
        await crowd[0].aclose()
        await crowd[0].aclose()  # twice is once
        viewers.join()
        assert len(viewers) == MOST_VIEWERS


@pytest.mark.asyncio
async def test_who_reads_nothing_is_given_up_and_costs_others_nothing() -> None:
    async with shown(look_seconds=0.001) as (viewers, picture):
        asleep, awake = viewers.join(), viewers.join()
        while picture.looks < 2 * MOST_UNREAD:
            assert await awake.read()
        assert await asleep.read() == b""
        assert len(viewers) == 1


@pytest.mark.asyncio
async def test_all_streams_end_at_a_stop_and_nobody_joins_any_more() -> None:
    async with shown(look_seconds=60) as (viewers, _):
        crowd = [viewers.join() for _ in range(3)]
        for viewer in crowd:
            await viewer.read()
        waiting = [asyncio.ensure_future(viewer.read()) for viewer in crowd]
        await asyncio.sleep(0)
        viewers.close()
        assert await asyncio.gather(*waiting) == [b"", b"", b""]
        with pytest.raises(Overloaded):
            viewers.join()


@pytest.mark.asyncio
async def test_a_failure_ends_the_streams_and_the_next_viewer_begins_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with shown() as (viewers, picture):
        viewer = viewers.join()
        await viewer.read()
        picture.broken = True
        while await viewer.read():
            pass
        assert "no figures" in caplog.text
        assert len(viewers) == 0
        picture.broken = False
        assert (await viewers.join().read()).startswith(b"opening")


@pytest.mark.asyncio
async def test_a_long_silence_is_broken_by_a_heartbeat() -> None:
    async with shown(look_seconds=60, heartbeat=0.02) as (viewers, _):
        viewer = viewers.join()
        await viewer.read()
        assert await viewer.read() == b": still here\n\n"


@pytest.mark.asyncio
async def test_a_reader_that_is_cancelled_leaves_nothing_waiting() -> None:
    async with shown(look_seconds=60) as (viewers, _):
        viewer = viewers.join()
        await viewer.read()
        reading = asyncio.ensure_future(viewer.read())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        viewer.put(b"more")
        assert await viewer.read() == b"more"


@pytest.mark.parametrize(
    ("error", "ends"),
    [(NotAuthenticated, True), (NotAllowed, True), (StoreUnavailable, False), (None, False)],
)
@pytest.mark.asyncio
async def test_whether_somebody_may_still_look_is_asked_again(error: Any, ends: bool) -> None:
    asked = 0

    async def check() -> None:
        nonlocal asked
        asked += 1
        if error is not None:
            raise error

    viewer = Viewer(lambda _: None, check, Pace(check=0.0))
    viewer.put(b"secret")
    assert await viewer.read() == (b"" if ends else b"secret")
    assert asked == 1
