import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.services import history as module
from backend.services.counts import SLOT_SECONDS
from backend.services.figures import Figures, Trouble
from backend.services.history import KEPT, History, Sample, number_of
from backend.services.points import points
from backend.services.trail import Trail

IDLE: dict[str, Any] = {"in_flight": 0, "places_in_use": 0, "lag": 0.0, "upstreams": {}}


class Clock:
    def __init__(self, now: float = 5000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Worker:
    """A worker at work: `work` for five seconds, noted at their end."""

    def __init__(self, clock: Clock, place: Path | None = None, **gauges: Any) -> None:
        self.clock = clock
        self.figures = Figures(clock)
        self.history = History(self.figures, lambda: IDLE | gauges, clock)
        self._place = place

    async def begin(self) -> None:
        await self.history.start(self._place)

    def request(self, seconds: float = 0.1, fault: str | None = None) -> None:
        trail = Trail()
        trail.began = self.clock.now - seconds
        trouble = None if fault is None else Trouble(fault, "a_code")
        self.figures.count(trail, "GET", "2xx" if fault is None else "5xx", trouble, 100, 1000)

    async def note(self) -> None:
        await self.history.note(self.clock.now)


@asynccontextmanager
async def working(clock: Clock, place: Path | None = None, **gauges: Any) -> AsyncIterator[Worker]:
    worker = Worker(clock, place, **gauges)
    await worker.begin()
    try:
        yield worker
    finally:
        await worker.history.aclose()


@pytest.mark.asyncio
async def test_a_sample_has_what_happened_in_its_five_seconds_and_no_others() -> None:
    clock = Clock()
    async with working(clock, in_flight=3) as worker:
        for count in (2, 5, 0):
            for _ in range(count):
                worker.request(fault="upstream" if count == 2 else None)
            clock.now += SLOT_SECONDS
            await worker.note()
        first, second, third = await worker.history.seen(0)
    assert [first.requests, second.requests, third.requests] == [2, 5, 0]
    assert [first.number, second.number, third.number] == [1000, 1001, 1002]
    assert (first.faults, second.faults) == ({"upstream": 2}, {})
    assert (second.received, second.sent) == (500, 5000)
    assert sum(second.durations.values()) == 5
    assert third.gauges["in_flight"] == 3


@pytest.mark.asyncio
async def test_a_quarter_of_an_hour_is_kept_and_no_more(tmp_path: Path) -> None:
    clock = Clock()
    place = tmp_path / "0"
    sizes = []
    async with working(clock, place) as worker:
        for _ in range(5 * KEPT):
            worker.request()
            clock.now += SLOT_SECONDS
            await worker.note()
            sizes.append((tmp_path / "0.past").stat().st_size)
        kept = await worker.history.seen(0)
    assert len(kept) == KEPT
    assert kept[-1].number == number_of(clock.now) - 1
    assert max(sizes) <= 2.1 * sizes[KEPT]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.past"]
    assert (tmp_path / "0.past").stat().st_mode & 0o777 == 0o600


@pytest.mark.asyncio
async def test_any_worker_knows_of_all(tmp_path: Path) -> None:
    clock = Clock()
    async with working(clock, tmp_path / "0") as one, working(clock, tmp_path / "1", in_flight=2) as other:
        one.request()
        other.request()
        other.request()
        clock.now += SLOT_SECONDS
        await asyncio.gather(one.note(), other.note())
        for worker in (one, other):
            [point] = points(await worker.history.seen(number_of(clock.now) - 1))
            assert (point["rate"], point["workers"], point["in_flight"]) == (0.6, 2, 2)


@pytest.mark.asyncio
async def test_who_takes_a_dead_workers_seat_goes_on_with_its_samples(tmp_path: Path) -> None:
    clock = Clock()
    async with working(clock, tmp_path / "0") as dying:
        dying.request()
        clock.now += SLOT_SECONDS
        await dying.note()
    with (tmp_path / "0.past").open("ab") as file:
        file.write(b"[1001,5,0,0,{}")  # it died in the middle of a line
        file.write(b"\n")
    async with working(clock, tmp_path / "0") as successor:
        clock.now += SLOT_SECONDS
        await successor.note()
        assert [one.requests for one in await successor.history.seen(0)] == [1, 0]


@pytest.mark.asyncio
async def test_a_full_disk_costs_the_others_view_and_nothing_else(tmp_path: Path) -> None:
    clock = Clock()
    (tmp_path / "0.past").symlink_to("/dev/full")
    async with working(clock, tmp_path / "0") as worker:
        worker.request()
        clock.now += SLOT_SECONDS
        await worker.note()
        assert [one.requests for one in await worker.history.seen(0)] == [1]


@pytest.mark.asyncio
async def test_samples_of_another_life_of_the_machine_are_no_future(tmp_path: Path) -> None:
    clock = Clock(9_000_000.0)
    async with working(clock, tmp_path / "1") as former:
        await former.note()
    clock.now = 5000.0
    async with working(clock, tmp_path / "0") as worker:
        assert await worker.history.seen(0) == []


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b"null", b"[1,2,3]", b"\xff\xfe", b'["x",0,0,0,{},{},{},{}]', b"[1,0,0,0,1,2,3,4]"],
)
def test_what_is_no_sample_is_none(line: bytes) -> None:
    assert Sample.read(line) is None


@pytest.mark.parametrize(
    "spoilt", [{"durations": {"999999": 1}}, {"gauges": {}}, {"faults": {"client": "x"}}]
)
def test_a_sample_of_another_version_makes_no_point(spoilt: dict[str, Any]) -> None:
    fields = {"number": 7, "requests": 1, "received": 0, "sent": 0, "faults": {}, "durations": {}, "owns": {}}
    good = Sample(**fields, gauges=IDLE)
    assert len(points([good])) == 1
    assert points([Sample(**(fields | {"gauges": IDLE} | spoilt))]) == []


@pytest.mark.asyncio
async def test_it_notes_by_itself_while_it_runs() -> None:
    """On the machine's own clock, whose five seconds end when they end."""
    figures = Figures()
    history = History(figures, lambda: IDLE)
    await history.start(None)
    figures.count(Trail(), "GET", "2xx", None, 0, 0)
    async with asyncio.timeout(3 * SLOT_SECONDS):
        while not (seen := await history.seen(0)):  # noqa: ASYNC110 - by the clock
            await asyncio.sleep(0.1)
    await history.aclose()
    assert [one.requests for one in seen] == [1]


def test_lines_are_small() -> None:
    """What is written every five seconds for a busy service, and kept a quarter of an hour."""
    full = {str(number): 10 for number in range(300, 500)}
    sample = Sample(1, 1, 1, 1, {}, full, full, IDLE)
    assert len(sample.line()) < 6000
    assert json.loads(sample.line())[0] == 1
    assert 8 * len(sample.line()) < module.TAIL_BYTES
