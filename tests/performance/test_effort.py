"""Whose fault it is when the load generator is slow."""

import asyncio
import dataclasses
import time

from performance.answers import Answer
from performance.conclusions import conclusions, generator_limited
from performance.effort import Effort, Watch
from performance.machine import files_in_use
from performance.record import Record
from performance.settings import CALLS, Account, Load, Outputs, Settings, Target
from performance.steps import Rung, Step

EASY = Effort(
    seconds=3.0,
    loop=0.1,
    process=0.1,
    machine=0.2,
    stolen=0.0,
    lag_p95=0.001,
    lag_worst=0.01,
    load=0.5,
    cores=2,
    files=0.1,
)
SETTINGS = Settings(Target("http://x", Account(), 60.0), Load((10,)), Outputs(), CALLS["preview"])


def told(effort: Effort) -> tuple[str, bool]:
    record = Record(serial=[3.0], complete=True)
    record.rungs = [Rung(10, [Step.of([Answer(3.0)] * 10, record.serial, effort)])]
    return " ".join(conclusions(SETTINGS, record)), generator_limited(record)


def test_easy_run_says_nothing_of_the_machine() -> None:
    words, limited = told(EASY)
    assert "limit" not in words
    assert not limited


def test_busy_loop_is_told_to_be_the_limit() -> None:
    words, limited = told(dataclasses.replace(EASY, loop=0.95))
    assert "10 at once: the load generator was the limit, not the gateway: its loop was busy 95%" in words
    assert limited


def test_late_loop_and_used_up_files_are_told() -> None:
    assert "it was 0.90 s late" in told(dataclasses.replace(EASY, lag_worst=0.9))[0]
    assert "95% of the open files" in told(dataclasses.replace(EASY, files=0.95))[0]


def test_small_delay_of_a_slow_call_is_no_limit() -> None:
    assert not told(dataclasses.replace(EASY, lag_worst=0.3))[1]


def test_one_delay_among_many_calls_is_no_limit() -> None:
    late = dataclasses.replace(EASY, lag_worst=0.9, lag_p95=0.01)
    assert late.limits(0.01, at_once=False) == []
    assert dataclasses.replace(late, lag_p95=0.2).limits(0.01, at_once=False) != []


def test_full_machine_is_told_with_its_load() -> None:
    words, limited = told(dataclasses.replace(EASY, machine=0.99, load=10.0))
    assert "This machine had no processor time left" in words
    assert "99% busy, load 10 on 2 cores" in words
    assert not limited
    assert "gave 40% of its processor time to others" in told(dataclasses.replace(EASY, stolen=0.4))[0]


async def measured(seconds: float, *, blocked: bool) -> Effort:
    async with Watch() as watch:
        await asyncio.sleep(0.1)
        if blocked:
            ends = time.perf_counter() + seconds
            while time.perf_counter() < ends:
                pass
        await asyncio.sleep(0.1)
        return watch.effort()


def test_blocked_loop_is_seen() -> None:
    effort = asyncio.run(measured(1.0, blocked=True))
    assert effort.lag_worst >= 0.9
    assert effort.seconds >= 1.2
    # A busy neighbour may take the processor meanwhile, but not all of it.
    assert effort.loop > asyncio.run(measured(0.0, blocked=False)).loop
    assert effort.limits(0.1, at_once=True)


def test_share_of_open_files_is_told() -> None:
    share = files_in_use()
    assert share is None or 0 < share < 1
