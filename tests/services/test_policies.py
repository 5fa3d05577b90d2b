import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend import errors
from backend.errors import (
    UpstreamBroken,
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamFirstByteTimeout,
    UpstreamGarbage,
    UpstreamIdleTimeout,
    UpstreamRefused,
    UpstreamTotalTimeout,
)
from backend.services.policies import (
    PAUSE_SECONDS,
    Attempt,
    Freshness,
    RetryBudget,
    Timeouts,
    may_ask_again,
    may_retry,
    pause_seconds,
    wait_asked_for,
)

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UpstreamError)]
METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "POST", "PATCH"]


@pytest.mark.parametrize("error", [UpstreamRefused, UpstreamConnectTimeout])
@pytest.mark.parametrize("method", METHODS)
def test_call_that_was_never_sent_is_tried_up_to_three_times(error: type[UpstreamError], method: str) -> None:
    allowed = [may_retry(error(), Attempt(number, method, body_replayable=True)) for number in (1, 2, 3, 4)]
    assert allowed == [True, True, False, False]


@pytest.mark.parametrize(
    ("method", "expected"), [(m, m not in ("POST", "PATCH")) for m in METHODS] + [("LINK", False)]
)
def test_broken_call_is_tried_once_more_only_when_idempotent(method: str, expected: bool) -> None:
    allowed = [may_retry(UpstreamBroken(), Attempt(n, method, body_replayable=True)) for n in (1, 2, 3)]
    assert allowed == [expected, False, False]


@pytest.mark.parametrize(
    "error", [UpstreamFirstByteTimeout, UpstreamIdleTimeout, UpstreamTotalTimeout, UpstreamGarbage]
)
def test_call_that_may_still_be_working_is_not_repeated(error: type[UpstreamError]) -> None:
    assert not may_retry(error(), Attempt(1, "GET", body_replayable=True))


@pytest.mark.parametrize("error", ALL)
@pytest.mark.parametrize("method", METHODS)
def test_body_that_is_gone_is_never_sent_again(error: type[UpstreamError], method: str) -> None:
    assert not may_retry(error(), Attempt(1, method, body_replayable=False))


@pytest.mark.parametrize("error", [kind for kind in ALL if kind.sent])
def test_post_that_may_have_arrived_is_never_sent_again(error: type[UpstreamError]) -> None:
    assert not may_retry(error(), Attempt(1, "POST", body_replayable=True))


def test_budget_allows_its_burst_and_then_no_more() -> None:
    budget = RetryBudget(ratio=0.1, burst=3)
    for _ in range(100):
        budget.earn()
    assert [budget.spend() for _ in range(5)] == [True, True, True, False, False]


def test_first_call_of_all_may_be_tried_again() -> None:
    budget = RetryBudget()
    budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]


def test_retry_is_earned_by_its_share_of_calls() -> None:
    budget = RetryBudget(ratio=0.125, burst=1)
    budget.earn()
    assert budget.spend()
    for _ in range(7):
        budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend()
    assert not budget.spend()


def test_quiet_times_save_up_no_more_than_the_burst() -> None:
    budget = RetryBudget(ratio=0.5, burst=2)
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False]


@given(st.lists(st.booleans(), max_size=200))
def test_retries_never_exceed_the_burst_and_the_share_of_calls(calls: list[bool]) -> None:
    budget = RetryBudget()
    retries = 0
    for fails in calls:
        budget.earn()
        retries += fails and budget.spend()
    assert retries <= 1 + 0.08 * len(calls)
    assert retries <= 0.1 * len(calls) or len(calls) < 46


def test_budget_tells_its_state() -> None:
    assert repr(RetryBudget(burst=10)) == "<RetryBudget 0.9 of 10>"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("status", [200, 404, 429, 500, 501, 502, 503, 504])
def test_only_not_now_is_asked_again_and_only_when_idempotent(method: str, status: int) -> None:
    again = [may_ask_again(status, Attempt(n, method, body_replayable=True)) for n in (1, 2)]
    assert again == [status in (502, 503) and method not in ("POST", "PATCH"), False]
    assert not may_ask_again(status, Attempt(1, method, body_replayable=False))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *[(None, 0), (b"0", 0), (b"1", 1)],
        *[(b"2", None), (b"120", None), (b"-1", None), (b"", None), (b"0.5", None)],
        *[(b"Wed, 21 Oct 2026 07:28:00 GMT", None), ("\u0661".encode(), None)],
    ],
)
def test_short_wait_is_kept_and_a_long_one_is_the_callers(value: bytes | None, seconds: int | None) -> None:
    headers = [] if value is None else [(b"retry-after", value)]
    assert wait_asked_for(headers) == seconds


@given(st.integers(1, 3), st.floats(0, 1))
def test_pause_is_short_and_jittered(number: int, jitter: float) -> None:
    assert 0.2 * PAUSE_SECONDS <= pause_seconds(number, jitter) <= 3 * PAUSE_SECONDS
    assert pause_seconds(number, 1) > pause_seconds(number, 0)


def test_total_time_counts_over_all_attempts() -> None:
    limits = Timeouts(first_byte=10, idle=5, total=20)
    assert limits.after(3) == Timeouts(first_byte=10, idle=5, total=17)
    assert limits.after(30).total == 0
    assert Timeouts(first_byte=10).after(3) == Timeouts(first_byte=10)
    assert (limits.patience, Timeouts(first_byte=10).patience) == (20, 10)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_was_never_touched_is_not_fresh() -> None:
    assert not Freshness(5, Clock()).fresh


def test_freshness_ends_with_its_time() -> None:
    clock = Clock()
    kept = Freshness(5, clock)
    kept.touch()
    assert kept.fresh
    clock.now += 4.9
    assert kept.fresh
    clock.now += 0.1
    assert not kept.fresh


def test_freshness_begins_anew_and_can_be_ended() -> None:
    clock = Clock()
    kept = Freshness(5, clock)
    kept.touch()
    clock.now += 4
    kept.touch()
    clock.now += 4
    assert kept.fresh
    kept.expire()
    assert not kept.fresh
