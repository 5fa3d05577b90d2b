"""The breaker as a pure decision: its clock is a number."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.services.breaker import (
    FAILURES,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Breaker,
    Breakers,
)

HERE, THERE = "http://a:1", "http://a:2"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tripped(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        assert breaker.admits()
        breaker.failed(probe=False)
    return breaker


def test_fewer_failures_change_nothing(clock: Clock) -> None:
    breaker = Breaker(clock)
    for _ in range(FAILURES - 1):
        breaker.failed(probe=False)
    assert breaker.admits()
    assert repr(breaker) == "<Breaker closed, 4 failures>"


def test_failures_in_a_row_keep_calls_away_for_a_moment(clock: Clock) -> None:
    breaker = tripped(clock)
    assert not breaker.admits()
    assert breaker.seconds_left == FIRST_PAUSE_SECONDS
    assert repr(breaker) == "<Breaker open for 0.5 s, 5 failures>"
    clock.now += FIRST_PAUSE_SECONDS - 0.01
    assert not breaker.admits()


def test_one_call_goes_as_a_probe_and_no_second(clock: Clock) -> None:
    breaker = tripped(clock)
    clock.now += FIRST_PAUSE_SECONDS
    assert [breaker.admits() for _ in range(10)] == [True] + [False] * 9


def test_probe_that_nobody_hears_of_holds_up_no_later_one(clock: Clock) -> None:
    breaker = tripped(clock)
    for _ in range(20):
        clock.now += LONGEST_PAUSE_SECONDS
        assert breaker.admits()
        assert not breaker.admits()


def test_pauses_grow_up_to_the_longest(clock: Clock) -> None:
    breaker, pauses = tripped(clock), []
    for _ in range(6):
        pauses.append(breaker.seconds_left)
        clock.now += breaker.seconds_left
        assert breaker.admits()
        breaker.failed(probe=True)
    assert pauses == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]


def test_late_failures_of_calls_before_say_nothing_new(clock: Clock) -> None:
    breaker = tripped(clock)
    clock.now += 0.4
    for _ in range(100):
        breaker.failed(probe=False)
    assert breaker.seconds_left == pytest.approx(0.1)


def test_an_answer_forgets_all_failures(clock: Clock) -> None:
    known = Breakers(clock)
    for _ in range(100):
        for _ in range(FAILURES - 1):
            known.failed(HERE, probe=False)
        known.answered(HERE, probe=False)
    assert known.admits(HERE)
    assert repr(known) == "<Breakers {}>"


def test_answered_probe_lets_everything_through_again(clock: Clock) -> None:
    known = Breakers(clock)
    for _ in range(FAILURES):
        known.failed(HERE, probe=False)
    assert not known.admits(HERE)
    known.answered(HERE, probe=False)  # it went out before, and is no news
    assert known.is_open(HERE)
    clock.now += known.seconds_left(HERE)
    assert known.admits(HERE)
    known.answered(HERE, probe=True)
    assert all(known.admits(HERE) for _ in range(100))


def test_addresses_are_judged_apart(clock: Clock) -> None:
    known = Breakers(clock)
    for _ in range(100):
        known.failed(HERE, probe=False)
        known.answered(THERE, probe=False)
    assert (known.admits(HERE), known.admits(THERE)) == (False, True)
    assert known.seconds_left(THERE) == 0


def test_what_is_new_at_an_address_begins_anew(clock: Clock) -> None:
    known = Breakers(clock)
    for _ in range(FAILURES):
        known.failed(HERE, probe=False)
    known.readmit(HERE)
    assert known.admits(HERE)


def test_after_a_check_that_found_nobody_no_call_goes_until_one_is_answered(clock: Clock) -> None:
    known = Breakers(clock)
    for _ in range(3):
        known.found_down(HERE, 5.0)
        clock.now += 4.9
        assert not known.admits(HERE)
    assert repr(known) == f"<Breakers {{{HERE!r}: <Breaker down for 0.1 s, 0 failures>}}>"
    known.answered(HERE, probe=False)  # it went out before, and is no news
    assert known.is_open(HERE)
    known.found_up(HERE)
    assert known.calm


def test_check_that_is_not_repeated_holds_up_nobody_for_long(clock: Clock) -> None:
    known = Breakers(clock)
    known.found_down(HERE, 5.0)
    assert known.seconds_left(HERE) == LONGEST_PAUSE_SECONDS
    clock.now += 5.0
    assert [known.admits(HERE) for _ in range(5)] == [True] + [False] * 4
    known.failed(HERE, probe=True)
    assert known.is_open(HERE)


def test_answered_check_is_news_where_calls_reached_nobody_and_not_where_they_failed(clock: Clock) -> None:
    known = Breakers(clock)
    for sent in (True, False):
        for _ in range(FAILURES):
            known.failed(HERE, probe=False, sent=sent)
        known.found_up(HERE)
        assert known.is_open(HERE) == sent
        known.readmit(HERE)


def test_late_failure_of_a_call_does_not_undo_what_a_check_found(clock: Clock) -> None:
    known = Breakers(clock)
    known.found_down(HERE, 5.0)
    known.failed(HERE, probe=False, sent=True)
    assert known.seconds_left(HERE) == LONGEST_PAUSE_SECONDS
    known.found_up(HERE)
    assert known.calm


@settings(deadline=None)
@given(st.lists(st.sampled_from(["ok", "fail", "given up", "wait"]), max_size=300))
def test_open_breaker_admits_at_most_one_call_a_pause(events: list[str]) -> None:
    clock = Clock()
    known = Breakers(clock)
    admitted_while_open: list[float] = []
    row = 0
    for event in events:
        if event == "wait":
            clock.now += 0.2
            continue
        probe = known.is_open(HERE)
        if not known.admits(HERE):
            continue
        if probe:
            admitted_while_open.append(clock.now)
        if event == "ok":
            known.answered(HERE, probe=probe)
            row = 0
        elif event == "fail":
            known.failed(HERE, probe=probe)
            row += 1
        assert known.is_open(HERE) == (row >= FAILURES)
    gaps = [b - a for a, b in pairwise(admitted_while_open)]
    assert all(gap >= FIRST_PAUSE_SECONDS for gap in gaps)


@settings(deadline=None, max_examples=25)
@given(st.integers(5, 50), st.integers(30, 60))
def test_dead_address_is_asked_little_and_comes_back_within_five_seconds(rate: int, seconds: int) -> None:
    clock = Clock()
    known = Breakers(clock)

    def calls(until: float, alive: bool) -> tuple[int, int]:
        asked = made = 0
        while clock.now < until:
            made += 1
            probe = known.is_open(HERE)
            if known.admits(HERE):
                asked += 1
                if alive:
                    known.answered(HERE, probe=probe)
                else:
                    known.failed(HERE, probe=probe)
            clock.now += 1 / rate
        return asked, made

    calls(1030.0, alive=False)
    asked, made = calls(1030.0 + seconds, alive=False)
    assert asked <= max(1, 0.1 * made)
    calls(clock.now + 4.0, alive=True)
    asked, made = calls(clock.now + 1.0, alive=True)
    assert asked == made
