"""The figures of all workers together in Prometheus' text form."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from backend.services.board import Told
from backend.services.counts import BUCKETS, KINDS, Counts, cumulated, together
from backend.services.summary import upstreams

CONTENT_TYPE = CONTENT_TYPE_LATEST
LABELS = ("route", "method", "answers")
HISTOGRAMS = {
    "duration": ("gateway_request_duration_seconds", "Time to the last byte of the answer."),
    "own": ("gateway_request_own_seconds", "What the gateway added before the head of the answer."),
    "upstream": ("gateway_request_upstream_seconds", "Waiting for upstreams before the head of the answer."),
    "head": ("gateway_request_first_byte_seconds", "Time to the head of the answer."),
}
# Key of a worker's gauges -> name and meaning.
OF_WORKERS = {
    "in_flight": ("gateway_requests_in_flight", "Requests that are being answered."),
    "places": ("gateway_upstream_places", "Upstream calls that may be in flight at once."),
    "places_in_use": ("gateway_upstream_places_in_use", "Upstream calls in flight."),
    "lag": ("gateway_loop_lag_seconds", "How late a timer of the last ten seconds was at worst."),
    "uptime": ("gateway_worker_uptime_seconds", "How long the worker runs."),
    "lost_spans": ("gateway_spans_lost", "Spans of traces that could not be kept or delivered."),
    "lost_lines": ("gateway_log_lines_lost", "Log lines that could not be kept or written."),
}
OF_UPSTREAMS = {
    "in_flight": ("gateway_upstream_calls_in_flight", "Calls in flight, answers that still arrive included."),
    "unanswered": ("gateway_upstream_calls_unanswered", "Calls that wait for the head of their answer."),
    "waiting": ("gateway_upstream_calls_waiting", "Calls that wait for a place."),
    "open_breakers": ("gateway_upstream_breakers_open", "Addresses that calls are kept away from."),
}
# Where an upstream has several addresses: by their numbers in the setting, not by where they are.
OF_ADDRESSES = {
    "in_flight": ("gateway_upstream_address_calls_in_flight", "Calls in flight to one of several addresses."),
    "ejected_by": ("gateway_upstream_address_ejected", "Workers that keep calls away from the address."),
}

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class _Merged(Collector):
    """Lets Prometheus' library read what was merged already."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def exposition(told: Sequence[Told]) -> bytes:
    """Return the text; takes some milliseconds, so it is a thread's work."""
    counts = together(one.counts for one in told)
    live = {one.seat: one.gauges for one in told if one.gauges is not None}
    registry = CollectorRegistry()
    families = [*_requests(counts), *_errors(counts), *_bytes(counts)]
    registry.register(_Merged([*families, *_of_workers(live), *_pool([*live.values()])]))
    return generate_latest(registry)


def _requests(counts: Counts) -> Iterator[Family]:
    requests = CounterMetricFamily("gateway_requests", "Requests that are over.", labels=LABELS)
    families = [HistogramMetricFamily(*HISTOGRAMS[kind], labels=LABELS) for kind in KINDS]
    for key, series in sorted(counts.series.items()):
        requests.add_metric(key, series.count)
        for family, counted, seconds in zip(families, series.buckets, series.sums, strict=True):
            bounds = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
            family.add_metric(key, list(zip(bounds, cumulated(counted), strict=True)), seconds)
    yield requests
    yield from families


def _errors(counts: Counts) -> Iterator[Family]:
    errors = CounterMetricFamily(
        "gateway_errors",
        "Requests that went wrong, by whose fault it was.",
        labels=("source", "code", "upstream"),
    )
    for error, count in sorted(counts.errors.items()):
        errors.add_metric(error, count)
    yield errors


def _bytes(counts: Counts) -> Iterator[Family]:
    whole = counts.whole
    yield CounterMetricFamily(
        "gateway_received_bytes", "Bytes of request bodies that were read.", value=whole.received
    )
    yield CounterMetricFamily("gateway_sent_bytes", "Bytes of answers' bodies.", value=whole.sent)


def _of_workers(live: Mapping[int, Mapping[str, Any]]) -> Iterator[Family]:
    yield GaugeMetricFamily("gateway_workers", "Workers that serve.", value=len(live))
    for key, (name, meaning) in OF_WORKERS.items():
        family = GaugeMetricFamily(name, meaning, labels=("worker",))
        for seat, gauges in sorted(live.items()):
            family.add_metric((str(seat),), gauges[key])
        yield family


def _pool(live: Sequence[Mapping[str, Any]]) -> Iterator[Family]:
    loads = sorted(upstreams(live).items())
    for key, (name, meaning) in OF_UPSTREAMS.items():
        family = GaugeMetricFamily(name, meaning, labels=("upstream",))
        for upstream, load in loads:
            family.add_metric((upstream,), load[key])
        yield family
    for key, (name, meaning) in OF_ADDRESSES.items():
        family = GaugeMetricFamily(name, meaning, labels=("upstream", "address"))
        for upstream, load in loads:
            for address in load["addresses"]:
                family.add_metric((upstream, str(address["number"])), address[key])
        yield family
