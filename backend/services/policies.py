"""Pure decisions with an injected clock: how long to wait, and whether to ask again."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from backend.errors import UpstreamBroken, UpstreamError
from backend.services.headers import Headers, first

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one upstream call may take, in seconds; None has no limit of its own.

    `first_byte` runs from the last byte sent to the first of the answer, `idle` between bytes of a
    body, `total` over everything, `upload_idle` between bytes that the client sends. Connecting and
    waiting for a place have process-wide limits.
    """

    first_byte: float
    idle: float = 60.0
    total: float | None = None
    # A client that stalls its upload holds an upstream connection.
    upload_idle: float = 60.0

    @property
    def patience(self) -> float:
        """Within how many seconds the last attempt has to begin."""
        return self.first_byte if self.total is None else self.total

    def after(self, seconds: float) -> "Timeouts":
        """Return what is left when so much has passed: the total counts over all attempts."""
        return self if self.total is None else replace(self, total=max(0.0, self.total - seconds))


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the retry rule needs to know of an attempt that failed."""

    number: int
    method: str
    body_replayable: bool


# Two more tries reach another address or a service that is just restarting; more only add load.
MOST_ATTEMPTS_NEVER_SENT = 3
# A sent call is tried once more: the usual cause is a kept connection that the upstream just closed.
MOST_ATTEMPTS_SENT = 2

# "Not now": answers that a moment later may be others.
WORTH_ANOTHER_TRY = frozenset({502, 503})
# What an answer may ask for in Retry-After; whoever says more gets through to the caller.
SHORT_WAIT_SECONDS = 1
# Between attempts at one address. Jittered, so that those who failed together do not return together.
PAUSE_SECONDS = 0.05


def may_retry(error: UpstreamError, attempt: Attempt) -> bool:
    """Say whether a failed attempt may be repeated without any risk of doing the work twice."""
    if not attempt.body_replayable:
        return False
    if not error.sent:
        return attempt.number < MOST_ATTEMPTS_NEVER_SENT
    # Of a sent call only a broken connection is worth another try; after a timeout the work still runs.
    return (
        isinstance(error, UpstreamBroken)
        and attempt.method in IDEMPOTENT
        and attempt.number < MOST_ATTEMPTS_SENT
    )


def may_ask_again(status: int, attempt: Attempt) -> bool:
    """Say whether an answer may be thrown away for another attempt."""
    return (
        status in WORTH_ANOTHER_TRY
        and attempt.body_replayable
        and attempt.method in IDEMPOTENT
        and attempt.number < MOST_ATTEMPTS_SENT
    )


def wait_asked_for(headers: Headers) -> float | None:
    """Return the seconds that an answer asks to wait, 0 when it does not say, None when it is too long."""
    value = first(headers, b"retry-after")
    if value is None:
        return 0.0
    if not value.isdigit() or len(value) > 1 or int(value) > SHORT_WAIT_SECONDS:
        return None
    return float(value)


def pause_seconds(number: int, jitter: float) -> float:
    """Return how long to wait after attempt `number` at the same address; `jitter` is from 0 to 1."""
    return PAUSE_SECONDS * number * (0.2 + 0.8 * jitter)


class RetryBudget:
    """Allows retries as a share of calls, so that a failing upstream is not asked ever more often.

    Every call earns `ratio` of a retry, up to `burst`; every retry spends one. The first call may have one:
    with it, fifty calls that all fail make at most a tenth more.
    """

    def __init__(self, ratio: float = 0.08, burst: float = 10.0) -> None:
        self._ratio = ratio
        self._burst = burst
        self._tokens = 1 - ratio

    def earn(self) -> None:
        self._tokens = min(self._burst, self._tokens + self._ratio)

    def spend(self) -> bool:
        """Take one retry from the budget; False when it is used up."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def __repr__(self) -> str:
        return f"<RetryBudget {self._tokens:.1f} of {self._burst:.0f}>"


class Freshness:
    """Tells whether something kept is still fresh, by a monotonic clock."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since: float | None = None

    def touch(self) -> None:
        self._since = self._clock()

    def expire(self) -> None:
        self._since = None

    @property
    def fresh(self) -> bool:
        return self._since is not None and self._clock() - self._since < self._seconds
