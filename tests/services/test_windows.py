import math
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.windows import Counts, Windows

WINDOW = 60


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def hit(windows: Windows, key: str = "a", limit: int = 5) -> bool:
    return await windows.acquire_sliding_window_entry(key, limit, WINDOW)


async def wait(windows: Windows, key: str = "a", limit: int = 5) -> float:
    return Counts(*await windows.get_sliding_window(key, WINDOW)).wait_seconds(limit, WINDOW)


@pytest.mark.asyncio
async def test_as_many_as_the_limit_pass_at_once_and_no_more(clock: Clock) -> None:
    windows = Windows(monotonic=clock)
    assert [await hit(windows) for _ in range(7)] == [True] * 5 + [False] * 2
    assert await hit(windows, "b")


@pytest.mark.asyncio
async def test_whoever_waits_as_told_gets_in_and_a_moment_earlier_does_not(clock: Clock) -> None:
    windows = Windows(monotonic=clock)
    for _ in range(30):
        while await hit(windows):
            clock.now += 1.0
        told = await wait(windows)
        assert 0 < told <= WINDOW
        clock.now += told - 0.01
        assert not await hit(windows)
        clock.now += 0.02
        assert await hit(windows)


@pytest.mark.asyncio
async def test_refused_attempts_do_not_count(clock: Clock) -> None:
    """Else whoever tries on is never let in again."""
    windows = Windows(monotonic=clock)
    passed = 0
    for _ in range(10 * WINDOW):
        passed += await hit(windows)
        clock.now += 1.0
    assert 40 <= passed <= 55


@pytest.mark.asyncio
async def test_everything_is_forgotten_after_two_windows(clock: Clock) -> None:
    windows = Windows(monotonic=clock)
    while await hit(windows):
        pass
    clock.now += 2 * WINDOW
    assert await wait(windows) == 0
    assert [await hit(windows) for _ in range(6)] == [True] * 5 + [False]


@pytest.mark.asyncio
async def test_memory_is_bounded_and_keeps_those_seen_last(clock: Clock) -> None:
    windows = Windows(most=100, monotonic=clock)
    for number in range(1000):
        while await hit(windows, str(number)):
            pass
    assert len(windows) == 100
    assert not await hit(windows, "999")
    assert await windows.get_sliding_window("0", WINDOW) == (0, 0.0, 0, 0.0)


@given(st.lists(st.floats(0, 40), max_size=200), st.integers(1, 20))
def test_no_window_ever_holds_much_more_than_the_limit(pauses: list[float], limit: int) -> None:
    """Two counters forget when within a window something was; a steady or a sudden flow passes no more."""
    clock = Clock()
    windows = Windows(monotonic=clock)
    passed: deque[float] = deque()
    for pause in pauses:
        clock.now += pause
        if run(hit(windows, limit=limit)):
            passed.append(clock.now)
        while passed and passed[0] <= clock.now - WINDOW:
            passed.popleft()
        assert len(passed) < 2 * limit or limit == 1


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 50), st.floats(0, WINDOW))
def test_told_wait_is_right_whatever_was_counted(
    limit: int, previous: int, current: int, rest: float
) -> None:
    counts = Counts(previous, rest, current, rest + WINDOW)
    told = counts.wait_seconds(limit, WINDOW)
    assert 0 <= told <= 2 * WINDOW

    def fits(after: float) -> bool:
        if after < rest:
            return math.floor(previous * (rest - after) / WINDOW) + current < limit
        return math.floor(current * max(0.0, rest + WINDOW - after) / WINDOW) < limit

    assert fits(told + 0.001)


def run(coroutine):  # type: ignore[no-untyped-def]
    """The end of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")
