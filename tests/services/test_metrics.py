from prometheus_client.parser import text_string_to_metric_families as parsed

from backend.services.board import Told
from backend.services.figures import Figures, Trouble
from backend.services.metrics import exposition
from backend.services.summary import summary
from backend.services.trail import Trail

GAUGES = {
    "pid": 4711,
    "uptime": 12.0,
    "server": "hypercorn",
    "loop": "uvloop",
    "in_flight": 3,
    "places": 100,
    "places_in_use": 4,
    "lag": 0.25,
    "mean_lag": 0.001,
    "lost_lines": 1,
    "lost_spans": 2,
    "viewers": 1,
    "upstreams": {
        "manager": {
            "in_flight": 2,
            "unanswered": 1,
            "waiting": 5,
            "open_breakers": 1,
            "addresses": [
                {"number": 1, "ejected": False, "silent": False, "in_flight": 2},
                {"number": 2, "ejected": True, "silent": True, "in_flight": 0},
                {"number": 3, "ejected": False, "silent": True, "in_flight": 1},
            ],
        }
    },
}


def worker(requests: int, *, seat: int = 0, alive: bool = True, route: str = "/x") -> Told:
    figures = Figures()
    for _ in range(requests):
        trail = Trail()
        trail.route, trail.upstream_name = route, "manager"
        trail.answered()
        figures.count(trail, "GET", "5xx", Trouble("upstream", "upstream_refused"), 10, 125_000)
    return Told(figures.taken(), dict(GAUGES) if alive else None, seat)


def samples(told: list[Told]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of the text, as Prometheus reads it."""
    text = exposition(told).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parsed(text)
        for sample in family.samples
    }


def test_prometheus_reads_the_sum_of_all_workers() -> None:
    found = samples([worker(2), worker(3, seat=1), worker(4, seat=2, alive=False)])
    labels = (("answers", "5xx"), ("method", "GET"), ("route", "/x"))
    assert found["gateway_requests_total", labels] == 9
    assert found["gateway_request_duration_seconds_count", labels] == 9
    assert found["gateway_sent_bytes_total", ()] == 9 * 125_000
    errors = (("code", "upstream_refused"), ("source", "upstream"), ("upstream", "manager"))
    assert found["gateway_errors_total", errors] == 9
    # What a dead worker was doing it does no more.
    assert found["gateway_workers", ()] == 2
    assert found["gateway_upstream_calls_waiting", (("upstream", "manager"),)] == 10
    first, second = ((("address", number), ("upstream", "manager")) for number in "12")
    assert found["gateway_upstream_address_calls_in_flight", first] == 4
    assert found["gateway_upstream_address_ejected", first] == 0
    assert found["gateway_upstream_address_ejected", second] == 2
    assert {key[1] for key in found if key[0] == "gateway_requests_in_flight"} == {
        (("worker", "0"),),
        (("worker", "1"),),
    }


def test_buckets_hold_all_that_is_below_them() -> None:
    found = samples([worker(5)])
    buckets = [value for (name, _), value in found.items() if name == "gateway_request_own_seconds_bucket"]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 5


def test_a_route_cannot_break_out_of_its_label() -> None:
    route = '/a"b\\c\nd{e="f"} 7'
    labels = {dict(key[1])["route"] for key in samples([worker(1, route=route)]) if dict(key[1]).get("route")}
    assert labels == {route}


def test_nothing_counted_is_no_error() -> None:
    assert samples([Told(Figures().taken(), None)])["gateway_workers", ()] == 0
    document = summary([Told(Figures().taken(), None)])
    assert document["total_requests"] == document["error_rate"] == document["uptime_seconds"] == 0
    assert document["duration_ms"]["last_minute"] == {
        "count": 0, "mean": None, "p50": None, "p95": None, "p99": None
    }  # fmt: skip


def test_the_summary_says_the_same_for_people() -> None:
    document = summary([worker(2), worker(4, seat=2, alive=False)])
    assert (document["total_requests"], document["error_count"], document["error_rate"]) == (6, 6, 1.0)
    assert document["errors"] == {
        "by_source": {"upstream": 6},
        "by_code": {"upstream_refused": 6},
        "by_upstream": {"manager": 6},
    }
    assert document["requests_per_second"] == 0.5  # six in the twelve seconds since the start
    assert document["throughput_mbps"]["sent"] == 0.5
    assert document["upstream_pool"] == {"places": 100, "in_use": 4}
    assert document["upstreams"]["manager"] == {
        "in_flight": 2,
        "unanswered": 1,
        "waiting": 5,
        "open_breakers": 1,
        "addresses": [
            {"number": 1, "state": "healthy", "ejected_by": 0, "in_flight": 2},
            {"number": 2, "state": "ejected", "ejected_by": 1, "in_flight": 0},
            {"number": 3, "state": "silent", "ejected_by": 0, "in_flight": 1},
        ],
    }
    assert [one["pid"] for one in document["workers"]] == [4711]
    assert document["workers_ended"] == 1
    assert document["workers"][0]["loop_lag_ms"] == {"mean": 1.0, "worst": 250.0}
