"""Percentiles, exact and sketched."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from performance.durations import ACCURACY, Durations, percentile


@settings(deadline=None)  # a busy machine is no finding
@given(st.lists(st.floats(allow_nan=False), min_size=1), st.integers(0, 100))
def test_percentile_is_the_smallest_value_that_covers_the_percentage(
    values: list[float], percent: int
) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    covered = sum(value <= found for value in ordered)
    below = sum(value < found for value in ordered)
    assert found in ordered
    assert covered * 100 >= percent * len(ordered)
    assert below == 0 or below * 100 < percent * len(ordered)


@settings(deadline=None)  # a busy machine is no finding
@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_percentile_grows_from_the_smallest_to_the_largest(values: list[float]) -> None:
    ordered = sorted(values)
    found = [percentile(ordered, percent) for percent in range(101)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (ordered[0], ordered[-1])


def test_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        percentile([], 50)


@settings(deadline=None)  # a busy machine is no finding
@given(st.lists(st.floats(1e-4, 1e3), min_size=20, max_size=200), st.sampled_from([50, 95, 99, 100]))
def test_sketched_percentiles_are_within_their_accuracy_of_the_exact_ones(
    values: list[float], percent: int
) -> None:
    sketched = Durations(most_exact=5)
    for value in values:
        sketched.add(value)
    assert not sketched.exact
    # The sketch counts ranks from below, the exact one from above: either neighbour will do.
    ordered = sorted(values)
    rank = ordered.index(percentile(ordered, percent))
    low, high = ordered[max(rank - 1, 0)], ordered[min(rank + 1, len(ordered) - 1)]
    found = sketched.at(percent)
    assert found is not None
    assert low * (1 - 2 * ACCURACY) <= found <= high * (1 + 2 * ACCURACY)


def test_few_durations_are_exact_and_many_take_no_more_memory() -> None:
    durations = Durations(most_exact=100)
    for number in range(100):
        durations.add(0.1 + number / 1000)
    assert durations.exact
    assert durations.at(50) == percentile(sorted(0.1 + number / 1000 for number in range(100)), 50)
    for _ in range(10_000):
        durations.add(5.0)
    assert not durations.exact
    assert durations._ordered == []
    assert (durations.count, durations.least, durations.most, durations.at(100)) == (10_100, 0.1, 5.0, 5.0)


def test_nothing_has_no_percentile() -> None:
    durations = Durations()
    assert (durations.at(50), durations.mean) == (None, None)
