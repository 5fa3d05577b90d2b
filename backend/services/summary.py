"""The figures of all workers together, as `/stats` tells them to people and to programs that read JSON."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from backend.services.board import Told
from backend.services.counts import WINDOW_SECONDS, Counts, Slot, together
from backend.services.sketches import Counts as Bins
from backend.services.sketches import percentiles

SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
BITS = 8
HEALTHY, SILENT, EJECTED = "healthy", "silent", "ejected"


def summary(told: Sequence[Told], now: float | None = None) -> dict[str, Any]:
    """Return the document; takes some milliseconds, so it is a thread's work."""
    now = perf_counter() if now is None else now
    counts = together(one.counts for one in told)
    live = [one.gauges for one in told if one.gauges is not None]
    whole, lately = counts.whole, counts.lately(now)
    uptime = max((gauges["uptime"] for gauges in live), default=0.0)
    window = max(1.0, min(WINDOW_SECONDS, uptime))
    return {
        "total_requests": whole.requests,
        "error_count": whole.errors,
        "error_rate": _share(whole.errors, whole.requests),
        "errors": _errors(counts),
        "requests_per_second": round(lately.requests / window, 3),
        "throughput_mbps": {
            "received": round(lately.received * BITS / 1e6 / window, 3),
            "sent": round(lately.sent * BITS / 1e6 / window, 3),
        },
        "duration_ms": _times(lately, whole, "durations", "seconds"),
        "gateway_ms": _times(lately, whole, "owns", "own_seconds"),
        "routes": _routes(counts),
        "in_flight": sum(gauges["in_flight"] for gauges in live),
        "viewers": sum(gauges["viewers"] for gauges in live),
        "upstream_pool": {
            "places": sum(gauges["places"] for gauges in live),
            "in_use": sum(gauges["places_in_use"] for gauges in live),
        },
        "upstreams": upstreams(live),
        "uptime_seconds": round(uptime, 1),
        "lost_log_lines": sum(gauges["lost_lines"] for gauges in live),
        "lost_spans": sum(gauges["lost_spans"] for gauges in live),
        "workers": [_worker(one) for one in told if one.gauges is not None],
        "workers_ended": len(told) - len(live),
    }


def upstreams(live: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what calls to each upstream are doing in all workers together."""
    sums: dict[str, dict[str, Any]] = {}
    for gauges in live:
        for name, load in gauges["upstreams"].items():
            known = sums.setdefault(name, {key: type(value)() for key, value in load.items()})
            for key, value in load.items():
                known[key] += value
    return {name: {**load, "addresses": _addresses(load["addresses"])} for name, load in sums.items()}


def _addresses(told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each address once; `ejected_by` counts the workers that keep calls away from it."""
    sums: dict[int, dict[str, Any]] = {}
    for one in told:
        number = one["number"]
        known = sums.setdefault(number, {"number": number, "state": HEALTHY, "ejected_by": 0, "in_flight": 0})
        known["in_flight"] += one["in_flight"]
        known["ejected_by"] += one["ejected"]
        if known["ejected_by"]:
            known["state"] = EJECTED
        elif one["silent"]:
            known["state"] = SILENT
    return [sums[number] for number in sorted(sums)]


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _errors(counts: Counts) -> dict[str, dict[str, int]]:
    by: dict[str, dict[str, int]] = {"by_source": {}, "by_code": {}, "by_upstream": {}}
    for error, count in sorted(counts.errors.items()):
        for name, key in zip(by, error, strict=True):
            if key:
                by[name][key] = by[name].get(key, 0) + count
    return by


def _times(lately: Slot, whole: Slot, bins: str, seconds: str) -> dict[str, dict[str, Any]]:
    return {
        "last_minute": _spread(getattr(lately, bins), getattr(lately, seconds)),
        "since_start": _spread(getattr(whole, bins), getattr(whole, seconds)),
    }


def _spread(bins: Bins, seconds: float) -> dict[str, Any]:
    """Return mean and percentiles in ms; None where nothing was counted."""
    count = sum(bins)
    found = percentiles(bins, SHARES.values())
    return {
        "count": count,
        "mean": _ms(seconds / count) if count else None,
        **{name: _ms(value) for name, value in zip(SHARES, found, strict=True)},
    }


def _routes(counts: Counts) -> list[dict[str, Any]]:
    """Return each route with what it took, the most asked for first."""
    return [
        {
            "route": route,
            "method": method,
            "answers": kind,
            "count": series.count,
            "mean_ms": _ms(series.sums[0] / series.count),
            "mean_gateway_ms": _ms(series.sums[1] / series.heads) if series.heads else None,
            "mean_upstream_ms": _ms(series.sums[2] / series.heads) if series.heads else None,
        }
        for (route, method, kind), series in sorted(counts.series.items(), key=lambda item: -item[1].count)
        if series.count
    ]


def _worker(told: Told) -> dict[str, Any]:
    gauges = told.gauges or {}
    return {
        "pid": gauges["pid"],
        "uptime_seconds": round(gauges["uptime"], 1),
        "server": gauges["server"],
        "loop": gauges["loop"],
        "loop_lag_ms": {"mean": _ms(gauges["mean_lag"]), "worst": _ms(gauges["lag"])},
        "in_flight": gauges["in_flight"],
        "total_requests": told.counts.whole.requests,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
