import pytest

from backend.services import sketches
from backend.services.history import Sample
from backend.services.points import points


def sketch(*seconds: float) -> dict[str, int]:
    counts = sketches.empty()
    for one in seconds:
        counts[sketches.bin_of(one)] += 1
    return sketches.packed(counts)


def sample(number: int, *seconds: float, lag: float = 0.0, load: tuple[int, int, int] = (1, 0, 0)) -> Sample:
    gauges = {"in_flight": 2, "places_in_use": 1, "lag": lag, "upstreams": {"model": load}}
    count = len(seconds)
    return Sample(number, count, 1000 * count, 0, {"client": 1}, sketch(*seconds), sketch(0.001), gauges)


def test_workers_add_up_and_the_worst_lag_counts() -> None:
    [point] = points([sample(7, 0.1, 0.1, lag=0.002), sample(7, 0.3, lag=0.5, load=(2, 3, 1))])
    assert point["number"] == 7
    assert point["workers"] == 2
    assert point["rate"] == 0.6
    assert point["in_flight"] == 4
    assert point["places_in_use"] == 2
    assert point["lag_ms"] == 500
    assert point["upstreams"] == {"model": [3, 3, 1]}
    assert point["errors"] == {"client": 0.4, "gateway": 0.0, "upstream": 0.0}
    assert point["received_mbps"] == 0.0048


def test_percentiles_are_those_of_all_requests_and_not_means_of_percentiles() -> None:
    quick, slow = sample(1, *[0.01] * 99), sample(1, 1.0)
    [point] = points([quick, slow])
    p50, p95, p99 = point["duration_ms"]
    assert p50 == pytest.approx(10, rel=0.02)
    assert p95 == pytest.approx(10, rel=0.02)
    assert p99 == pytest.approx(10, rel=0.02)
    [point] = points([sample(1, *[0.01] * 9), sample(1, 1.0)])
    assert point["duration_ms"][0] == pytest.approx(10, rel=0.02)
    assert points([sample(1, 1.0)])[0]["duration_ms"][0] == pytest.approx(1000, rel=0.02)


def test_where_nothing_was_asked_there_is_no_time() -> None:
    [point] = points([sample(1)])
    assert point["duration_ms"] == [None, None, None]


def test_points_are_in_order_whatever_the_order_of_samples() -> None:
    assert [point["number"] for point in points([sample(3), sample(1), sample(3), sample(2)])] == [1, 2, 3]


def test_they_agree_with_the_full_sketch() -> None:
    seconds = [0.001 * step**1.7 for step in range(1, 200)]
    counts = sketches.empty()
    for one in seconds:
        counts[sketches.bin_of(one)] += 1
    halves = [sketch(*seconds[::2]), sketch(*seconds[1::2])]
    shares = (0.1, 0.5, 0.9, 0.99)
    assert sketches.percentiles_of_packed(halves, shares) == sketches.percentiles(counts, shares)
