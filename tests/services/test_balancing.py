"""The choice of an address as a pure decision: clock and dice are handed in."""

import asyncio
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.config import load
from backend.errors import Overloaded
from backend.services.balancing import SILENT_CHECKS, Address, Load, Traffic, drawn_pair, ranked
from backend.services.breaker import FAILURES, Breakers
from backend.services.http_client import HttpClient
from backend.services.slots import Share

from ..support.gateway import KEY

A, B, C = "http://a:1", "http://b:1", "http://c:1"
HOLDS_SECONDS = 5.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def share(size: int = 1000, waiting: int = 0) -> Share:
    settings = load({}, None, jwt_secret_key=KEY, gateway_pool_waiting=waiting, upstream_max_connections=size)
    return HttpClient(settings).share()


class Town:
    """An upstream of so many addresses, with a clock and dice of its own."""

    def __init__(self, *origins: str, seed: int = 0) -> None:
        self.clock = Clock()
        self.breakers = Breakers(self.clock)
        self.traffic = Traffic("x", origins, share(), self.breakers, random.Random(seed).randrange)

    def fail(self, origin: str, times: int = FAILURES) -> None:
        for _ in range(times):
            self.breakers.failed(origin, probe=self.traffic.is_out(origin))

    def busy(self, origin: str, calls: int) -> None:
        self.traffic.addresses[origin].in_flight = calls

    def load(self) -> Load:
        load = Load()
        self.traffic.add_to(load)
        return load


def town(count: int, seed: int = 0) -> Town:
    return Town(*(f"http://h{number}:1" for number in range(count)), seed=seed)


# The draw


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_two_that_are_drawn_are_different_ones_where_there_are_two(count: int, dice: random.Random) -> None:
    first, second = drawn_pair(count, dice.randrange)
    assert 0 <= first < count
    assert 0 <= second < count
    assert (first != second) == (count > 1)


@given(st.integers(2, 6))
def test_every_pair_is_drawn_as_often_as_any_other(count: int) -> None:
    throws = [(first, second) for first in range(count) for second in range(count - 1)]
    drawn = []
    for first, second in throws:
        numbers = iter((first, second))
        drawn.append(drawn_pair(count, lambda _, numbers=numbers: next(numbers)))
    assert sorted(drawn) == [(a, b) for a in range(count) for b in range(count) if a != b]


# Which address is taken


def test_the_less_busy_of_two_gets_the_call() -> None:
    here = Town(A, B)
    here.busy(A, 3)
    here.busy(B, 2)
    assert {here.traffic.next() for _ in range(50)} == {B}
    here.busy(B, 3)
    assert {here.traffic.next() for _ in range(50)} == {A, B}


@settings(deadline=None)
@given(
    st.integers(2, 8).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(0, 9), min_size=n, max_size=n))
    ),
    st.integers(0, 2**32),
)
def test_the_busiest_is_never_taken_before_less_busy_ones(loads: tuple[int, list[int]], seed: int) -> None:
    count, in_flight = loads
    here = town(count, seed)
    for origin, calls in zip(here.traffic.addresses, in_flight, strict=True):
        here.busy(origin, calls)
    taken = here.traffic.next()
    assert taken is not None
    if in_flight.count(max(in_flight)) == 1:
        assert here.traffic.addresses[taken].in_flight < max(in_flight)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 6),
    st.integers(0, 2**32),
    st.lists(
        st.tuples(st.sampled_from(["call", "end", "fail", "down", "up", "wait"]), st.integers(0, 5)),
        max_size=120,
    ),
)
def test_no_call_goes_to_an_address_that_is_out_while_another_is_in(
    count: int, seed: int, events: list[tuple[str, int]]
) -> None:
    """But for the probes of addresses that no check found down: one for each pause."""
    here = town(count, seed)
    origins = [*here.traffic.addresses]
    probes: dict[str, list[float]] = {origin: [] for origin in origins}
    for event, which in events:
        origin = origins[which % count]
        match event:
            case "call":
                inside = [one for one in origins if not here.traffic.is_out(one)]
                taken = here.traffic.next()
                if taken is None:
                    assert not inside
                elif taken in inside:
                    here.traffic.addresses[taken].in_flight += 1
                else:
                    probes[taken].append(here.clock.now)
            case "end":
                address = here.traffic.addresses[origin]
                address.in_flight = max(0, address.in_flight - 1)
            case "fail":
                here.fail(origin, 1)
            case "down" | "up":
                here.traffic.checked(origin, event, HOLDS_SECONDS)
            case "wait":
                here.clock.now += 0.3
    for times in probes.values():
        assert all(later - earlier >= 0.5 for earlier, later in pairwise(times))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 8), st.integers(0, 2**32), st.data())
def test_all_that_are_in_are_used_and_none_starves(count: int, seed: int, data: st.DataObject) -> None:
    here = town(count, seed)
    origins = [*here.traffic.addresses]
    out = data.draw(st.sets(st.sampled_from(origins), max_size=count - 1))
    for origin in out:
        here.traffic.checked(origin, "down", HOLDS_SECONDS)
    inside = [origin for origin in origins if not here.traffic.is_out(origin)]
    assert len(inside) == count - len(out)
    ends = random.Random(seed)
    taken: Counter[str] = Counter()
    for _ in range(80 * count):
        origin = here.traffic.next()
        assert origin is not None
        taken[origin] += 1
        address = here.traffic.addresses[origin]
        address.in_flight += 1
        for other in here.traffic.addresses.values():
            other.in_flight -= sum(ends.random() < 0.5 for _ in range(other.in_flight))
    assert set(taken) == set(inside)
    assert min(taken.values()) >= 80 * count / len(inside) / 4


def test_a_slow_address_gets_as_much_less_as_it_is_slower() -> None:
    """Ten times slower, it holds as many calls as the other and so is given a tenth as many."""
    here, slow, quick = Town(A, B, seed=1), A, B
    ends: list[tuple[float, str]] = []
    taken: Counter[str] = Counter()
    for moment in range(20_000):
        for when, origin in [one for one in ends if one[0] <= moment]:
            ends.remove((when, origin))
            here.traffic.addresses[origin].in_flight -= 1
        origin = here.traffic.next()
        assert origin is not None
        taken[origin] += 1
        here.traffic.addresses[origin].in_flight += 1
        ends.append((moment + (200 if origin == slow else 20), origin))
    assert 0.05 < taken[slow] / taken[quick] < 0.15


def test_another_attempt_goes_to_an_address_that_was_not_asked_yet() -> None:
    here = Town(A, B, C)
    here.busy(C, 9)
    for _ in range(20):
        assert here.traffic.next([A, B]) == C
        assert here.traffic.next([A, B, C]) in (A, B, C)
    here.traffic.checked(C, "down", HOLDS_SECONDS)
    assert here.traffic.next([A, B]) in (A, B)


def test_an_address_that_fails_calls_is_tried_by_one_of_them_a_pause_later() -> None:
    here = Town(A, B)
    here.fail(A)
    assert {here.traffic.next() for _ in range(20)} == {B}
    here.clock.now += 0.5
    assert [here.traffic.next() for _ in range(20)].count(A) == 1


def test_one_address_alone_is_asked_unless_it_is_out() -> None:
    here = Town(A)
    assert here.traffic.next() == here.traffic.next([A], "a conversation") == A
    here.fail(A)
    assert here.traffic.next() is None
    assert here.traffic.seconds_left == 0.5
    here.clock.now += 0.5
    assert [here.traffic.next() for _ in range(3)] == [A, None, None]


# Calls that have a place


@given(st.text(), st.integers(2, 8))
def test_every_process_ranks_addresses_alike_in_whatever_order_they_are_set(key: str, count: int) -> None:
    origins = [*town(count).traffic.addresses]
    assert ranked(key, origins) == ranked(key, reversed(origins))
    assert sorted(ranked(key, origins)) == sorted(origins)


def test_the_ranking_is_the_same_after_a_restart() -> None:
    """Hashes that Python salts would move every conversation."""
    assert ranked("conversation", [A, B, C]) == [A, C, B]


@given(
    st.lists(st.uuids().map(str), min_size=1, max_size=60, unique=True), st.integers(2, 6), st.integers(0, 5)
)
def test_only_those_move_whose_address_is_out(keys: list[str], count: int, which: int) -> None:
    here = town(count)
    homes = {key: here.traffic.next((), key) for key in keys}
    out = [*here.traffic.addresses][which % count]
    here.traffic.checked(out, "down", HOLDS_SECONDS)
    for key, home in homes.items():
        now = here.traffic.next((), key)
        assert now != out
        assert home in (now, out)
    here.traffic.checked(out, "up", HOLDS_SECONDS)
    assert {key: here.traffic.next((), key) for key in keys} == homes


def test_conversations_are_spread_and_stay_however_busy_their_address_is() -> None:
    here = Town(A, B, C)
    homes = Counter(here.traffic.next((), f"chat {number}") for number in range(900))
    assert all(200 < homes[origin] < 400 for origin in (A, B, C))
    home = here.traffic.next((), "chat")
    assert home is not None
    here.busy(home, 500)
    assert here.traffic.next((), "chat") == home
    second = here.traffic.next([home], "chat")
    assert second == ranked("chat", [A, B, C])[1]


# What health checks conclude


def test_a_check_that_finds_nobody_keeps_calls_away_until_one_is_answered() -> None:
    here = Town(A, B)
    here.traffic.checked(A, "down", HOLDS_SECONDS)
    for _ in range(3):
        here.clock.now += HOLDS_SECONDS - 0.1
        assert {here.traffic.next() for _ in range(20)} == {B}
        here.traffic.checked(A, "down", HOLDS_SECONDS)
    here.traffic.checked(A, "up", HOLDS_SECONDS)
    assert {here.traffic.next() for _ in range(20)} == {A, B}


def test_a_check_that_nobody_repeats_is_forgotten() -> None:
    here = Town(A, B)
    here.traffic.checked(A, "down", HOLDS_SECONDS)
    here.clock.now += HOLDS_SECONDS
    assert [here.traffic.next() for _ in range(20)].count(A) == 1


def test_a_check_that_is_answered_all_the_while_does_not_bring_back_what_fails_calls() -> None:
    here = Town(A, B)
    here.fail(A)
    here.traffic.checked(A, "up", HOLDS_SECONDS)
    assert here.traffic.is_out(A)
    here.clock.now += 0.5
    assert [here.traffic.next() for _ in range(20)].count(A) == 1
    here.breakers.answered(A, probe=True)
    assert not here.traffic.is_out(A)


def test_what_failed_calls_and_checks_is_brought_back_by_a_check() -> None:
    here = Town(A, B)
    here.fail(A)
    here.traffic.checked(A, "down", HOLDS_SECONDS)
    here.clock.now += 1.0
    assert {here.traffic.next() for _ in range(20)} == {B}
    here.traffic.checked(A, "up", HOLDS_SECONDS)
    assert not here.traffic.is_out(A)


def test_checks_never_take_the_last_address_out() -> None:
    here = Town(A, B)
    for origin in (A, B, A, B):
        here.traffic.checked(origin, "down", HOLDS_SECONDS)
    assert [here.traffic.is_out(origin) for origin in (A, B)] == [True, False]
    assert here.traffic.next() == B
    alone = Town(A)
    alone.traffic.checked(A, "down", HOLDS_SECONDS)
    assert alone.traffic.next() == A


def test_silence_counts_the_second_time_and_not_while_there_is_work() -> None:
    here = Town(A, B)
    here.busy(A, 1)
    here.busy(B, 5)
    for _ in range(5 * SILENT_CHECKS):
        here.traffic.checked(A, "silent", HOLDS_SECONDS)
    assert not here.traffic.is_out(A)
    here.busy(A, 0)
    here.traffic.checked(A, "up", HOLDS_SECONDS)
    for _ in range(SILENT_CHECKS):
        assert not here.traffic.is_out(A)
        here.traffic.checked(A, "silent", HOLDS_SECONDS)
    assert here.traffic.is_out(A)
    here.traffic.checked(A, "up", HOLDS_SECONDS)
    assert not here.traffic.is_out(A)


def test_new_calls_go_elsewhere_while_one_is_silent_and_those_at_home_there_stay() -> None:
    here = Town(A, B)
    key = next(key for key in map(str, range(100)) if ranked(key, [A, B])[0] == A)
    here.busy(A, 1)
    here.busy(B, 5)
    for _ in range(SILENT_CHECKS):
        assert here.traffic.next() == A
        here.traffic.checked(A, "silent", HOLDS_SECONDS)
    assert {here.traffic.next() for _ in range(20)} == {B}
    assert here.traffic.next((), key) == A
    assert [one.silent for one in here.load().addresses] == [True, False]
    for _ in range(SILENT_CHECKS):
        here.traffic.checked(B, "silent", HOLDS_SECONDS)
    assert {here.traffic.next() for _ in range(20)} == {A}  # all are silent: the less busy one
    here.traffic.checked(A, "up", HOLDS_SECONDS)
    here.traffic.checked(B, "up", HOLDS_SECONDS)
    assert {here.traffic.next() for _ in range(20)} == {A}


def test_what_is_told_to_wait_is_no_longer_than_until_somebody_looks() -> None:
    here = Town(A)
    here.fail(A)
    here.traffic.checked(A, "silent", HOLDS_SECONDS)
    assert here.traffic.next() is None
    assert 0 < here.traffic.seconds_left <= 3


# What is counted


@pytest.mark.asyncio
async def test_calls_are_counted_at_their_address_from_waiting_to_the_end() -> None:
    places = share(size=1, waiting=1)
    one, other = Address(A, places), Address(B, places)
    await one.acquire()
    waiting = asyncio.create_task(other.acquire())
    await asyncio.sleep(0)
    assert (one.in_flight, other.in_flight, places.waiting) == (1, 1, 1)
    with pytest.raises(Overloaded):
        await one.acquire()
    assert one.in_flight == 1
    one.answered()
    await waiting
    assert (one.in_flight, places.in_flight) == (1, 2)
    one.release(answered=True)
    other.release(answered=False)
    assert (one.in_flight, other.in_flight, places.in_flight, places.unanswered) == (0, 0, 0, 0)


@pytest.mark.asyncio
async def test_a_call_that_is_given_up_while_it_waits_is_not_counted_on() -> None:
    places = share(size=1, waiting=1)
    one = Address(A, places)
    await one.acquire()
    waiting = asyncio.create_task(one.acquire())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert (one.in_flight, places.in_flight, places.waiting) == (1, 1, 0)


def test_addresses_are_told_by_number_where_there_are_several() -> None:
    here = Town(A, B)
    here.busy(A, 2)
    here.traffic.checked(B, "down", HOLDS_SECONDS)
    told = [(one.number, one.ejected, one.in_flight) for one in here.load().addresses]
    assert told == [(1, False, 2), (2, True, 0)]
    assert here.load().open_breakers == 1
    assert repr(here.traffic) == "<Traffic x: 2, 0 out>"
    assert Town(A).load().addresses == []


def test_an_address_that_is_set_twice_is_one() -> None:
    assert [*Town(A, A).traffic.addresses] == [A]
    assert Town(A, A).traffic.next() == A
