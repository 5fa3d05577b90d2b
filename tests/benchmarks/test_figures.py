"""Medians, ratios, percentiles and limits, what each case compares, and how it is written down."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report
from benchmarks.cases import CASES, GROUPS, Compare, Results, chosen, plan
from benchmarks.concurrency import Step
from benchmarks.figures import Spread, at_most, differences, percentile, ratios, times
from benchmarks.measures import Kind, Measure
from benchmarks.subjects import AIOHTTP, DIRECT, GRANIAN, SUBJECTS

amounts = st.floats(min_value=1e-3, max_value=1e9, allow_nan=False)


series = st.lists(amounts, min_size=1, max_size=30)


@given(series)
def test_middle_lies_between_both_ends(values: list[float]) -> None:
    said = Spread.of(values)
    assert min(values) == said.lowest <= said.middle <= said.highest == max(values)
    assert sum(value < said.middle for value in values) <= len(values) / 2


def test_no_round_is_no_result() -> None:
    with pytest.raises(ValueError, match="no rounds"):
        Spread.of([])


@given(series, st.floats(min_value=0.01, max_value=100))
def test_ratio_of_a_multiple_is_its_factor(values: list[float], factor: float) -> None:
    assert ratios([value * factor for value in values], values) == pytest.approx([factor] * len(values))
    assert differences(values, values) == [0.0] * len(values)


def test_ratios_compare_the_same_rounds() -> None:
    assert ratios([10, 30], [10, 10]) == [1.0, 3.0]
    assert ratios([1], [0]) == [float("inf")]
    with pytest.raises(ValueError, match="zip"):
        ratios([1, 2], [1])


@given(series, st.floats(min_value=0, max_value=1))
def test_percentile_is_the_least_value_that_covers_the_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert found == min(values) or sum(value < found for value in values) < share * len(values)


@pytest.mark.parametrize(("share", "found"), [(0, 1), (0.5, 5), (0.51, 6), (0.99, 10), (1, 10)])
def test_percentile_is_by_nearest_rank(share: float, found: int) -> None:
    assert percentile(list(range(10, 0, -1)), share) == found


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_percentile_refuses_what_is_no_share(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        percentile([1.0], share)


@pytest.mark.parametrize(
    ("measured", "verdict"), [(0.69, "short"), (0.7, "ok"), (1.24, "ok"), (1.25, "ok, goal")]
)
def test_more_times_as_fast_is_better(measured: float, verdict: str) -> None:
    assert times(0.7, 1.25).verdict(measured) == verdict


@pytest.mark.parametrize(
    ("measured", "verdict"), [(3.61, "short"), (3.6, "ok"), (3.31, "ok"), (3.3, "ok, goal")]
)
def test_fewer_seconds_are_better(measured: float, verdict: str) -> None:
    assert at_most(3.6, 3.3, "s").verdict(measured) == verdict


def test_a_limit_without_a_goal_is_only_held() -> None:
    assert at_most(32, None, "MB").verdict(0) == "ok"


def results(**values: list[float]) -> Results:
    return {
        (Kind.SMALL, name): [Measure(value, value) for value in rounds] for name, rounds in values.items()
    }


def test_a_case_takes_its_ratio_round_by_round() -> None:
    [case] = chosen(["small"])
    said = case.said_by(results(granian=[100, 50, 300], aiohttp=[100, 100, 100]))
    assert said == Spread(1.0, 0.5, 3.0)
    assert case.verdict(said) == "ok"


def test_core_time_is_compared_where_it_is_known() -> None:
    [case] = chosen(["small"])
    half, whole = Measure(100, 100, busy=0.5), Measure(100, 100, busy=1.0)
    compared = case.by_core_time(
        {(Kind.SMALL, GRANIAN): [half, whole], (Kind.SMALL, AIOHTTP): [whole, whole]}
    )
    assert compared == Spread(1.5, 1.0, 2.0)
    assert case.by_core_time(results(granian=[1], aiohttp=[1])) is None


def test_growth_is_judged_by_its_worst_round() -> None:
    case = next(case for case in CASES if case.compare is Compare.GROWTH)
    rounds = [Measure(1, 1, more={"growth_mb": grown}) for grown in (1.0, 2.0, 40.0)]
    said = case.said_by({(case.kind, case.subject): rounds})
    assert said.middle == 2.0
    assert case.verdict(said) == "short"


def test_the_plan_holds_whatever_the_cases_need() -> None:
    for group in GROUPS:
        wanted = plan(chosen([group]))
        for case in chosen([group]):
            assert all(kind in wanted[name] for kind, name in case.needs)
    assert plan(chosen(["small"])) == {GRANIAN: [Kind.SMALL], AIOHTTP: [Kind.SMALL]}
    assert set(plan(CASES)) == set(SUBJECTS)
    assert plan(CASES)[DIRECT] == [Kind.DOWNLOAD, Kind.UPLOAD, Kind.LATENCY]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (0.034, "0.03"), (1.25, "1.25"), (12.34, "12.3"), (412.4, "412"), (12_345, "12,300")],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_markdown_has_a_cell_for_every_column() -> None:
    table = report.Table("Waits", ("server", "s"), (("granian", "3.02"), ("hypercorn", "3.03")))
    text = report.markdown({"cores": "2"}, [table], ["A note."])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines == ["| server | s |", "| --- | ---: |", "| granian | 3.02 |", "| hypercorn | 3.03 |"]
    assert text.endswith("A note.\n")


def test_a_step_is_what_its_json_says() -> None:
    step = Step("granian", "HTTP/1.1", 10, 3.02, 12.5)
    assert json.loads(json.dumps(step.__dict__)) == step.__dict__
