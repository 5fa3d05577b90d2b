import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.app import create_app
from backend.config import SettingsError
from backend.context import EXTENSION
from backend.services import traces
from backend.services.traces import Span, Trace, Tracer, tracer_of
from tests.support.gateway import settings_for

PARENT = [(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
UNSAMPLED = [(b"traceparent", PARENT[0][1][:-1] + b"0")]


class Collector:
    """An outlet that keeps what it gets; it can hang and fail."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.free = threading.Event()
        self.free.set()
        self.hanging = threading.Event()
        self.outcome: bool | Exception = True
        self.closed = False

    def deliver(self, spans: Sequence[Span]) -> bool:
        if not self.free.is_set():
            self.hanging.set()
            self.free.wait(30)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if self.outcome:
            self.spans += spans
        return self.outcome

    def close(self) -> None:
        self.closed = True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def tracing(
    collector: Collector,
    clock: Callable[[], float] = lambda: 100.0,
    waiting: int = 1000,
) -> Iterator[Tracer]:
    tracer = Tracer(lambda: collector, most_a_second=100, waiting=waiting, clock=clock)
    tracer.start()
    try:
        yield tracer
    finally:
        collector.free.set()
        tracer.close()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def begun(tracer: Tracer, headers: Sequence[tuple[bytes, bytes]] = ()) -> Trace:
    trace = tracer.begun(headers)
    assert trace is not None
    return trace


def test_calls_are_children_of_their_request_and_both_of_the_client() -> None:
    collector = Collector()
    with tracing(collector) as tracer:
        trace = begun(tracer, PARENT)
        call = trace.call("GET", "catalogue")
        [(name, header)] = call.joined(PARENT)
        call.answered(200)
        call.finish()
        call.finish("twice")  # counts once
        trace.finish("GET /x", 1.0, {"http.route": "/x"}, None)
    child, parent = collector.spans
    assert (child.trace_id, parent.trace_id) == ("0af7651916cd43dd8448eb211c80319c",) * 2
    assert (child.parent_id, parent.parent_id) == (parent.span_id, "b7ad6b7169203331")
    assert (name, header) == (b"traceparent", f"00-{child.trace_id}-{child.span_id}-01".encode())
    assert (child.name, child.inbound, parent.inbound) == ("GET catalogue", False, True)
    assert child.values["http.response.status_code"] == 200
    assert (child.wrong, parent.wrong) == (None, None)
    assert child.began <= child.ended
    assert collector.closed


def test_a_call_that_failed_says_how() -> None:
    collector = Collector()
    with tracing(collector) as tracer:
        trace = begun(tracer)
        failed, refused = trace.call("GET", "model"), trace.call("POST", None)
        failed.finish("upstream_broken")
        refused.answered(503)
        refused.finish()
    assert [span.wrong for span in collector.spans] == ["upstream_broken", "503"]


def test_who_is_not_followed_by_its_client_is_not_followed_here() -> None:
    with tracing(Collector()) as tracer:
        assert tracer.begun(UNSAMPLED) is None


def test_no_client_can_have_more_followed_than_there_is_room_for() -> None:
    clock = Clock()
    with tracing(Collector(), clock) as tracer:
        followed = [tracer.begun(PARENT if number % 2 else []) for number in range(1000)]
        assert sum(trace is not None for trace in followed) == 100
        assert clock.now < tracer.rests_until == int(clock.now) + 1, "who comes before need not ask"
        clock.now += 1
        assert tracer.begun(PARENT) is not None


def test_a_collector_that_hangs_holds_nobody_up_and_losses_are_counted() -> None:
    collector = Collector()
    collector.free.clear()
    with tracing(collector, waiting=50) as tracer:
        trace = begun(tracer)
        trace.call("GET", "a").finish()
        assert collector.hanging.wait(20)
        began = time.monotonic()
        for _ in range(10_000):
            trace.call("GET", "a").finish()
        assert time.monotonic() - began < 10  # and not the half minute that the collector takes
        assert tracer.lost == 9_950
        collector.free.set()
        until(lambda: len(collector.spans) == 51)
        trace.call("GET", "a").finish()
        until(lambda: len(collector.spans) == 52)


@pytest.mark.parametrize("outcome", [False, OSError("disk full"), ValueError("whatever")])
def test_a_collector_that_is_away_costs_its_spans_and_one_line(
    outcome: bool | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    collector = Collector()
    collector.outcome = outcome
    with tracing(collector) as tracer:
        trace = begun(tracer)
        for number in range(1, 4):
            trace.call("GET", "a").finish()
            until(lambda: tracer.lost == number)  # noqa: B023 - called at once
        assert caplog.text.count("cannot be delivered") == 1
        collector.outcome = True
        trace.call("GET", "a").finish()
        until(lambda: len(collector.spans) == 1)
        until(lambda: "delivered again" in caplog.text)


def test_what_waits_at_the_end_is_delivered() -> None:
    collector = Collector()
    with tracing(collector) as tracer:
        trace = begun(tracer)
        for _ in range(700):
            trace.call("GET", "a").finish()
    assert len(collector.spans) == 700


def test_an_end_does_not_wait_for_a_collector_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    collector = Collector()
    collector.free.clear()
    tracer = Tracer(lambda: collector, most_a_second=1)
    tracer.start()
    begun(tracer).call("GET", "a").finish()
    assert collector.hanging.wait(20)
    began = time.monotonic()
    tracer.close()
    assert time.monotonic() - began < traces.FAREWELL_SECONDS + 10
    assert "not delivered in time" in caplog.text
    collector.free.set()


def test_without_the_libraries_the_start_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "backend.services.span_export", None)  # cannot be imported
    with pytest.raises(SettingsError, match=r"GATEWAY_TRACES: .*install_async_deps\.sh --trace"):
        create_app(settings_for(tmp_path, gateway_traces="console"))


def test_switched_off_there_is_no_tracer(tmp_path: Path) -> None:
    application = create_app(settings_for(tmp_path))
    assert application.flask.extensions[EXTENSION].watching.face.tracer is None
    assert "opentelemetry.sdk" not in sys.modules or tracer_of(settings_for(tmp_path)) is None
