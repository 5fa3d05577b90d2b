import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services import sketches

durations = st.floats(sketches.SHORTEST_SECONDS, sketches.LONGEST_SECONDS)


def counted(values: list[float]) -> sketches.Counts:
    counts = sketches.empty()
    for value in values:
        counts[sketches.bin_of(value)] += 1
    return counts


def exact(values: list[float], share: float) -> float:
    """The value of this rank, as the library counts ranks."""
    return sorted(values)[math.floor(share * (len(values) - 1))]


@given(st.lists(durations, min_size=1, max_size=300), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_told_to_one_percent(values: list[float], share: float) -> None:
    [told] = sketches.percentiles(counted(values), [share])
    assert told == pytest.approx(exact(values, share), rel=sketches.ACCURACY + 1e-9)


@given(st.lists(st.lists(durations, max_size=50), min_size=1, max_size=5))
def test_sketches_of_several_workers_say_what_one_sketch_of_all_would_say(parts: list[list[float]]) -> None:
    whole = counted([value for part in parts for value in part])
    assert sketches.added(counted(part) for part in parts) == whole


@given(st.lists(durations, max_size=100))
def test_what_was_packed_is_unpacked_as_it_was(values: list[float]) -> None:
    assert sketches.unpacked(sketches.packed(counted(values))) == counted(values)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 86_401.0, 1e9])
def test_durations_out_of_range_are_counted_at_the_ends(seconds: float) -> None:
    [told] = sketches.percentiles(counted([seconds]), [0.5])
    assert told is not None
    assert sketches.SHORTEST_SECONDS / 1.05 < told < sketches.LONGEST_SECONDS * 1.05


def test_nothing_counted_has_no_percentiles() -> None:
    assert sketches.percentiles(sketches.empty(), [0.5, 0.99]) == [None, None]
    assert sketches.added([]) == sketches.empty()


def test_a_sketch_stays_small_whatever_it_counts() -> None:
    assert len(sketches.BOUNDS) < 1200
