"""What all workers did together in five seconds, as a point of each line that is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backend.services.counts import SLOT_SECONDS
from backend.services.history import Sample
from backend.services.sketches import percentiles_of_packed

SHARES = (0.5, 0.95, 0.99)
SOURCES = ("client", "gateway", "upstream")
BITS = 8

Point = dict[str, Any]


def points(samples: Iterable[Sample]) -> list[Point]:
    """Return a point for all five seconds that somebody tells of, in their order.

    Takes a tenth of a millisecond a point.
    """
    by_number: dict[int, list[Sample]] = {}
    for sample in samples:
        by_number.setdefault(sample.number, []).append(sample)
    return [point for number in sorted(by_number) if (point := _point(number, by_number[number])) is not None]


def _point(number: int, samples: Sequence[Sample]) -> Point | None:
    """Return None for what makes no sense, as of a former version."""
    try:
        return {
            "number": number,
            "workers": len(samples),
            "rate": _rounded(sum(sample.requests for sample in samples) / SLOT_SECONDS),
            "errors": _errors(samples),
            "duration_ms": _percentiles([sample.durations for sample in samples]),
            "gateway_ms": _percentiles([sample.owns for sample in samples]),
            "received_mbps": _mbps(sum(sample.received for sample in samples)),
            "sent_mbps": _mbps(sum(sample.sent for sample in samples)),
            "in_flight": sum(sample.gauges["in_flight"] for sample in samples),
            "places_in_use": sum(sample.gauges["places_in_use"] for sample in samples),
            "lag_ms": _rounded(max(sample.gauges["lag"] for sample in samples) * 1e3),
            "upstreams": _upstreams(sample.gauges["upstreams"] for sample in samples),
        }
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        return None


def _errors(samples: Sequence[Sample]) -> dict[str, float]:
    """Return errors a second, by whose fault they are."""
    return {
        source: _rounded(sum(sample.faults.get(source, 0) for sample in samples) / SLOT_SECONDS)
        for source in SOURCES
    }


def _percentiles(sketches: list[dict[str, int]]) -> list[float | None]:
    found = percentiles_of_packed(sketches, SHARES)
    return [None if seconds is None else _rounded(seconds * 1e3) for seconds in found]


def _upstreams(workers: Iterable[Mapping[str, Sequence[int]]]) -> dict[str, list[int]]:
    """Return for each upstream its calls in flight, those that wait, and addresses kept away from."""
    sums: dict[str, list[int]] = {}
    for loads in workers:
        for name, load in loads.items():
            sums[name] = [a + b for a, b in zip(sums.get(name, [0] * len(load)), load, strict=True)]
    return sums


def _mbps(octets: int) -> float:
    return _rounded(octets * BITS / 1e6 / SLOT_SECONDS)


def _rounded(value: float) -> float:
    """Three digits are more than a line shows."""
    return float(f"{value:.3g}")
