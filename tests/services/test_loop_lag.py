import asyncio
import time

import pytest

from backend.services import loop_lag
from backend.services.loop_lag import LoopLag
from tests.support.peer import until


@pytest.mark.asyncio
async def test_a_loop_that_was_held_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lag, "BEAT_SECONDS", 0.01)
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(0)
    time.sleep(0.2)  # holds everybody up
    await until(lambda: lag.worst_seconds > 0)
    assert lag.worst_seconds >= 0.15
    assert 0 < lag.mean_seconds <= lag.worst_seconds
    lag.close()
    lag.close()


@pytest.mark.asyncio
async def test_a_hold_up_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lag, "BEAT_SECONDS", 0.001)
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(0)
    time.sleep(0.5)
    await until(lambda: lag.worst_seconds >= 0.4)
    await until(lambda: lag.worst_seconds < 0.4, 20)
    lag.close()


def test_nothing_seen_yet_is_no_lag() -> None:
    assert (LoopLag().worst_seconds, LoopLag().mean_seconds) == (0.0, 0.0)
