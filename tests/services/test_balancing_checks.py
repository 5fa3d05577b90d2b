"""What health checks conclude of an address, beside what calls do."""

from backend.services.balancing import SILENT_CHECKS, ranked
from tests.support.balancing import HOLDS_SECONDS, A, B, Town


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
