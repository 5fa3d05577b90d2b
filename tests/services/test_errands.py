import asyncio
import logging

import pytest

from backend.errors import Conflict, Overloaded
from backend.services import errands
from backend.services.errands import Errands


@pytest.mark.asyncio
async def test_work_goes_on_when_its_caller_leaves() -> None:
    mine, go, done = Errands(1), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go.wait()
        done.set()

    caller = asyncio.create_task(mine.run(work()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go.set()
    await mine.aclose()
    assert done.is_set()


@pytest.mark.asyncio
async def test_outcome_and_error_reach_the_caller() -> None:
    async def good() -> int:
        return 7

    async def bad() -> int:
        raise Conflict("no")

    mine = Errands(2)
    assert await mine.run(good()) == 7
    with pytest.raises(Conflict, match="no"):
        await mine.run(bad())


@pytest.mark.asyncio
async def test_beyond_the_limit_nothing_is_begun() -> None:
    mine, go = Errands(1), asyncio.Event()
    mine.start(_waiting(go))
    begun = False

    async def second() -> None:
        nonlocal begun
        begun = True

    with pytest.raises(Overloaded):
        await mine.run(second())
    mine.start(second())
    go.set()
    await mine.aclose()
    assert not begun
    assert repr(mine) == "<Errands 0 of 1>"


async def _waiting(go: asyncio.Event) -> None:
    await go.wait()


@pytest.mark.asyncio
async def test_end_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "PARTING_SECONDS", 0.02)
    mine = Errands(1)
    mine.start(_waiting(asyncio.Event()))
    await mine.aclose()
    assert repr(mine) == "<Errands 0 of 1>"


@pytest.mark.asyncio
async def test_mistake_in_work_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def wrong() -> None:
        raise ZeroDivisionError

    mine = Errands(1)
    with caplog.at_level(logging.ERROR):
        mine.start(wrong())
        await mine.aclose()
    assert "an errand failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text
