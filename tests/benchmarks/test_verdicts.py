"""What each benchmark calls short."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report, watch
from benchmarks.avatar_users import INSTANCE, REDIS, WORKER, Outcome
from benchmarks.bad_peers import NAMED
from benchmarks.calls import Told
from benchmarks.cost import Cost, Round
from benchmarks.crowds import Burden
from benchmarks.dashboard import Look
from benchmarks.dashboard import Watched as Open
from benchmarks.leavers import Left
from benchmarks.meters import Compared, Seen
from benchmarks.seeing import timed
from benchmarks.soak import Soaked, State
from benchmarks.uploads import Uploaded
from benchmarks.viewers import PageState


@pytest.mark.parametrize(
    ("half", "end", "verdict"),
    [
        ((100.0, 50), (105.0, 54), "ok"),
        ((100.0, 50), (105.1, 50), "short"),
        ((100.0, 50), (90.0, 55), "short"),
    ],
)
def test_growth_of_the_second_half_falls_short(
    half: tuple[float, int], end: tuple[float, int], verdict: str
) -> None:
    assert Soaked("granian", State(0, 80, 20), State(1, *half), State(2, *end)).verdict == verdict


def test_a_body_that_is_held_falls_short_where_bodies_are_measured() -> None:
    start, half = State(0, 80, 20, 5, 80), State(4, 100, 20, 5, 150)
    assert Soaked("granian", start, half, half, "large").verdict == "short"
    assert Soaked("granian", start, half, half, "small").verdict == "ok"
    assert Soaked("granian", start, half, State(8, 100, 20, 10, 100), "small").verdict == "short"


def look(
    minutes: float, *, resident: float = 100, heap: float = 3, files: int = 60, nodes: int = 800
) -> Look:
    return Look(minutes * 60, 1200, 5.0, resident, files, PageState(heap, nodes))


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        (look(60, resident=105, heap=5), "ok"),
        (look(60, resident=106), "short"),
        (look(60, heap=5.1), "short"),
        (look(60, files=65), "short"),
        (look(60, nodes=901), "short"),
        (look(60, resident=50, heap=1), "ok"),
    ],
)
def test_an_open_dashboard_may_grow_until_its_quarter_of_an_hour_is_full(last: Look, verdict: str) -> None:
    assert Open("granian", 16 * 60, [look(1, resident=50, heap=1), look(16), last]).verdict == verdict


@given(st.floats(min_value=0.01, max_value=1e9))
def test_a_shown_figure_is_close_to_the_measured_one(value: float) -> None:
    assert float(report.number(value).replace(",", "")) == pytest.approx(value, rel=0.005, abs=0.005)


def burden(**over: Any) -> Burden:
    state = watch.State(resident_mb=60, files=30, threads=10, calls=0)
    values = {"server": "granian", "kind": NAMED["idle"], "peers": 2, "places": 1000, "settled": 0.1}
    seconds = {"health": 0.1, "other": 0.1, "same": 9.0, "healthy_after": 0.1, "returned_after": 0.1}
    rest = {"peer_kilobytes": 20, "lasted": [15.0, 15.9], "before": state, "after": state}
    return Burden(**(values | seconds | rest | over))


@pytest.mark.parametrize(
    ("over", "failings"),
    [
        ({}, []),
        ({"health": 2.1}, ["slow"]),
        ({"other": float("inf")}, ["slow"]),
        ({"lasted": [15.0]}, ["not closed"]),
        ({"lasted": [15.0, 16.1]}, ["closed late"]),
        ({"kind": NAMED["event-stream"], "lasted": []}, []),
        ({"healthy_after": 2.1}, ["slow afterwards"]),
        ({"after": watch.State(60, 35, 10, 1)}, ["calls left", "files left"]),
        ({"after": watch.State(900, 34, 51, 0)}, ["threads left"]),
    ],
)
def test_a_crowd_that_others_notice_falls_short(over: dict[str, Any], failings: list[str]) -> None:
    assert burden(**over).failings == failings


@pytest.mark.parametrize(
    ("seconds", "told", "alarms", "verdict"),
    [(1.0, 100, 0, "ok"), (1.1, 100, 0, "short"), (0.1, 99, 0, "short"), (0.1, 100, 1, "short")],
)
def test_leavers_are_forgotten_in_time_and_without_alarm(
    seconds: float, told: int, alarms: int, verdict: str
) -> None:
    assert Left("granian", "HTTP/1.1", "amid the answer", seconds, told, alarms).verdict == verdict


@pytest.mark.parametrize(
    ("dying", "seen", "verdict"),
    [
        (None, {}, "ok"),
        (None, {"wrong": 1}, "short"),
        (None, {"strange": 1}, "short"),
        (None, {"lost": 1}, "short"),
        (WORKER, {"lost": 5, "disturbed": 1}, "ok"),
        (WORKER, {"disturbed": 0}, "short"),
        (REDIS, {"lost": 1, "disturbed": 1}, "short"),
        (INSTANCE, {"refused": 9, "disturbed": 1}, "ok"),
        (INSTANCE, {"counted": 11, "disturbed": 1}, "short"),
    ],
)
def test_users_of_avatars_may_miss_what_died_and_no_more(
    dying: str | None, seen: dict[str, int], verdict: str
) -> None:
    assert Outcome("a run", 10, dying, **({"counted": 10} | seen)).verdict == verdict


def test_uploads_that_cost_too_much_fall_short() -> None:
    assert Uploaded("granian", 21, 500, 2.0, 100.0, 131.9, 400).verdict == "ok"
    assert Uploaded("granian", 21, 500, 2.0, 100.0, 132.0, 400).verdict == "short"


def answer_head(gateway: float, wait: float, upstream: float) -> bytes:
    timing = f"gateway;dur={gateway:.2f}, wait;dur={wait:.2f}, upstream;dur={upstream:.2f}"
    return f"HTTP/1.1 200 \r\nserver-timing: db;dur=7\r\nserver-timing: {timing}".encode()


def test_times_that_answers_tell_are_set_beside_those_outside() -> None:
    calls = [Told(0.0, 0.06, 200, answer_head(1, 2, 51)) for _ in range(5)]
    said = timed(calls)
    assert (said.seen, said.gateway, said.wait, said.upstream) == (60, 1, 2, 51)
    assert said.difference == pytest.approx(10)
    with pytest.raises(ValueError, match="does not tell"):
        timed([Told(0.0, 0.06, 200, b"HTTP/1.1 200 ")])


def test_what_seeing_costs_is_compared_turn_by_turn() -> None:
    off, again = [100e-6, 200e-6, 100e-6], [102e-6, 204e-6, 100e-6]
    cost = Round([105e-6, 210e-6, 105e-6], off, again, second_on=0.025, second_off=0.02)
    assert cost.call == pytest.approx(5)
    assert cost.noise == pytest.approx(2)
    assert cost.microseconds == pytest.approx(5)
    assert cost.second == pytest.approx(0.5)
    assert cost.whole == pytest.approx(5.5)


def test_the_middle_round_says_what_seeing_costs() -> None:
    rounds = [Round([more * 1e-6], [100e-6], [100e-6], 0.0, 0.0) for more in (104, 109, 103)]
    assert Cost("granian", rounds).over(lambda one: one.whole).middle == pytest.approx(4)


@pytest.mark.parametrize(
    ("meter", "told", "short"),
    [
        ("script", [(100, 205), (100, 209), (100, 400)], False),
        ("script", [(100, 205), (100, 211), (100, 211)], True),
        ("script", [(100, 200), (101, 200), (100, 200)], True),
        ("wrk", [(100, 200), (116, 200), (100, 200)], False),
        ("wrk", [(99, 200), (100, 200), (100, 200)], True),
    ],
)
def test_figures_are_set_beside_a_meter_outside(
    meter: str, told: list[tuple[int, float]], short: bool
) -> None:
    seen = Seen(100, {"p50": 200})
    one = Compared("granian", meter, [(seen, Seen(calls, {"p50": value})) for calls, value in told])
    assert one.short is short
