import logging
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from backend.request_log import RequestLog
from backend.services.figures import Trouble
from backend.services.trail import Trail


@dataclass
class Ended:
    """An exchange that is over."""

    status: int | None = 200
    seconds: float = 0.1
    client_gone: bool = False
    broken: Exception | None = None
    sent_bytes: int = 20
    received_bytes: int = 10
    relay: Any = None
    trail: Trail = field(default_factory=Trail)
    scope: dict[str, str] = field(default_factory=lambda: {"method": "GET", "path": "/secret/path"})

    def __post_init__(self) -> None:
        self.trail.route = "/x/<name>"


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records]


def test_ten_thousand_good_requests_write_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log: Any = RequestLog(1.0)
    for _ in range(10_000):
        log(Ended(), None)
    assert lines(caplog) == []


@pytest.mark.parametrize("status", [200, 204, 304, 400, 401, 404, 429])
def test_quick_requests_and_faults_of_clients_are_told_to_those_who_debug(
    caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    log: Any = RequestLog(1.0)
    log(Ended(status), None)
    [(level, told)] = lines(caplog)
    assert (level, told) == (logging.DEBUG, f"{status} GET /x/<name> after 0.100 s, 10 bytes in, 20 out")


def test_websocket_is_told_of_at_its_end_and_is_not_slow(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log: Any = RequestLog(1.0)
    log(Ended(101, seconds=4000.0, relay=SimpleNamespace(ending=SimpleNamespace(code=4401))), None)
    [(level, told)] = lines(caplog)
    assert level == logging.INFO
    assert told.startswith("socket closed with 4401 GET /x/<name> after 4000.000 s, 10 bytes in, 20 out")
    assert caplog.records[0].fields["close_code"] == 4401  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("ended", "level", "begins"),
    [
        (Ended(None, client_gone=True), logging.INFO, "499 GET /x/<name> after 0.100 s"),
        (Ended(502), logging.WARNING, "502 GET /x/<name>"),
        (Ended(200, broken=ValueError("cut")), logging.WARNING, "broken off (cut) GET /x/<name>"),
        (Ended(200, seconds=3.0), logging.WARNING, "slow: 200 GET /x/<name> after 3.000 s"),
        (Ended(200, seconds=1.0), logging.WARNING, "slow: 200 GET /x/<name> after 1.000 s"),
        (Ended(200, seconds=0.5), logging.INFO, "slow: 200 GET /x/<name> after 0.500 s"),
        (Ended(404, seconds=0.7), logging.INFO, "slow: 404 GET /x/<name> after 0.700 s"),
    ],
)
def test_trouble_and_slowness_are_told(
    caplog: pytest.LogCaptureFixture, ended: Ended, level: int, begins: str
) -> None:
    caplog.set_level(logging.INFO)
    log: Any = RequestLog(1.0)
    log(ended, None)
    [(told_level, told)] = lines(caplog)
    assert told_level == level
    assert told.startswith(begins)
    assert "secret" not in told


def test_a_line_says_who_failed_with_which_code_at_which_upstream(caplog: pytest.LogCaptureFixture) -> None:
    log: Any = RequestLog(1.0)
    ended = Ended(502)
    ended.trail.upstream_name, ended.trail.upstream = "manager", 0.05
    log(ended, Trouble("upstream", "upstream_refused"))
    [record] = caplog.records
    assert record.getMessage().endswith(", upstream_refused by upstream, upstream manager")
    fields = record.__dict__["fields"]
    assert fields == {
        "method": "GET",
        "route": "/x/<name>",
        "status": 502,
        "seconds": 0.1,
        "gateway_seconds": 0.0,
        "wait_seconds": 0.0,
        "upstream_seconds": 0.05,
        "received_bytes": 10,
        "sent_bytes": 20,
        "source": "upstream",
        "code": "upstream_refused",
        "upstream": "manager",
    }


def test_slow_requests_of_one_second_share_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 100.0
    log: Any = RequestLog(1.0, clock=lambda: now)
    for _ in range(500):
        log(Ended(seconds=3.0), None)
        log(Ended(seconds=0.6), None)
    assert [level for level, _ in lines(caplog)] == [logging.WARNING, logging.INFO]
    now += 1.1
    log(Ended(seconds=3.0), None)
    assert lines(caplog)[2][1].startswith("slow and 499 more since the last such line: 200 GET /x/<name>")


def test_errors_are_told_one_by_one_however_many(caplog: pytest.LogCaptureFixture) -> None:
    log: Any = RequestLog(1.0, clock=lambda: 100.0)
    for _ in range(500):
        log(Ended(503), Trouble("gateway", "overloaded"))
    assert len(lines(caplog)) == 500
