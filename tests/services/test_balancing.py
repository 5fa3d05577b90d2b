"""The choice of an address as a pure decision: clock and dice are handed in."""

import asyncio
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import Overloaded
from backend.services.balancing import Address, drawn_pair
from tests.support.balancing import HOLDS_SECONDS, A, B, C, Town, share, town

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
