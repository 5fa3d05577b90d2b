import logging
from dataclasses import dataclass, field
from typing import Any

import pytest

from backend.request_log import RequestLog


@dataclass
class Ended:
    """An exchange that is over."""

    status: int | None = 200
    seconds: float = 0.1
    client_gone: bool = False
    broken: Exception | None = None
    request_id: str = "0123456789"
    scope: dict[str, str] = field(default_factory=lambda: {"method": "GET", "path": "/x"})


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize("status", [200, 204, 304, 400, 401, 404, 429])
def test_quick_requests_and_faults_of_clients_are_silent(
    caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    log: Any = RequestLog(1.0)
    for _ in range(1000):
        log(Ended(status))
    assert lines(caplog) == []


@pytest.mark.parametrize(
    ("ended", "level", "begins"),
    [
        (Ended(None, client_gone=True), logging.INFO, "499 GET /x after 0.100 s, request 0123456789"),
        (Ended(502), logging.WARNING, "502 GET /x"),
        (Ended(200, broken=ValueError("cut")), logging.WARNING, "broken off (cut) GET /x"),
        (Ended(200, seconds=3.0), logging.INFO, "slow: 200 GET /x after 3.000 s"),
    ],
)
def test_trouble_is_told_with_its_request_id(
    caplog: pytest.LogCaptureFixture, ended: Ended, level: int, begins: str
) -> None:
    caplog.set_level(logging.DEBUG)
    log: Any = RequestLog(1.0)
    log(ended)
    [(told_level, told)] = lines(caplog)
    assert told_level == level
    assert told.startswith(begins)
    assert told.endswith("request 0123456789")


def test_slow_requests_of_one_second_share_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 100.0
    log: Any = RequestLog(1.0, clock=lambda: now)
    for _ in range(500):
        log(Ended(seconds=3.0))
    assert len(lines(caplog)) == 1
    now += 1.1
    log(Ended(seconds=3.0))
    assert lines(caplog)[1][1].startswith("slow and 499 more since the last such line: 200 GET /x")
