from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend import errors
from backend.observer import Observer
from backend.services.figures import Figures, Trouble
from backend.services.trail import Trail


@dataclass
class Ended:
    """An exchange that is over."""

    status: int | None = 200
    client_gone: bool = False
    broken: errors.GatewayError | None = None
    trouble: type[errors.GatewayError] | None = None
    sent_bytes: int = 3
    body: Any = field(default_factory=lambda: SimpleNamespace(count=2))
    relay: Any = None
    trail: Trail = field(default_factory=Trail)
    scope: dict[str, str] = field(default_factory=lambda: {"method": "GET"})


@pytest.mark.parametrize(
    ("ended", "kind", "trouble"),
    [
        (Ended(200), "2xx", None),
        (Ended(304), "3xx", None),
        (Ended(401, trouble=errors.NotAuthenticated), "4xx", ("client", "not_authenticated")),
        (Ended(503, trouble=errors.Overloaded), "5xx", ("gateway", "overloaded")),
        (Ended(504, trouble=errors.UpstreamTotalTimeout), "5xx", ("upstream", "upstream_total_timeout")),
        # Answers of upstreams that were passed on.
        (Ended(404), "4xx", ("client", "answered_404")),
        (Ended(500), "5xx", ("upstream", "answered_500")),
        (Ended(200, broken=errors.UpstreamBroken()), "broken", ("upstream", "upstream_broken")),
        (Ended(200, client_gone=True), "499", ("client", "client_gone")),
        (Ended(None, client_gone=True), "499", ("client", "client_gone")),
        (Ended(None), "none", ("gateway", "stopped")),
    ],
)
def test_an_exchange_is_counted_by_its_answer_and_who_is_to_blame(
    ended: Any, kind: str, trouble: tuple[str, str] | None
) -> None:
    figures, told = Figures(), []
    log: Any = lambda exchange, found: told.append(found)  # noqa: E731
    Observer(log, figures)(ended)
    counts = figures.taken()
    assert list(counts.series) == [("unmatched", "GET", kind)]
    assert counts.errors == ({} if trouble is None else {(*trouble, ""): 1})
    assert told == [None if trouble is None else Trouble(*trouble)]


def test_hours_of_a_websocket_are_no_duration_of_a_request() -> None:
    figures, silent = Figures(), cast(Any, lambda exchange, found: None)
    ended = Ended(101, relay=SimpleNamespace(received_bytes=7))
    ended.trail.began -= 7200
    ended.trail.head = 0.25
    Observer(silent, figures)(cast(Any, ended))
    (series,) = figures.taken().series.values()
    assert (series.count, series.sums[0]) == (1, 0.25)


def test_without_figures_the_log_is_told_all_the_same() -> None:
    told: list[Trouble | None] = []
    log: Any = lambda exchange, found: told.append(found)  # noqa: E731
    ended: Any = Ended(502, trouble=errors.UpstreamRefused)
    Observer(log, None)(ended)
    assert told == [Trouble("upstream", "upstream_refused")]
