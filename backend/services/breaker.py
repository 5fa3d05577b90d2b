"""Keeping calls away from an address that does not answer: pure decisions, clock injected.

```
closed ── FAILURES in a row ──► open ── a pause later, one call as a probe ──► answered: closed
   │                             ▲                                             failed: a longer pause
   │                             └─────────────────────────────────────────────┘
   └──── a health check found nobody ──► down ── a health check is answered ──► closed
```

A check that is answered while calls fail knows nothing of their trouble: then a call is the probe. Where
calls or checks had reached nobody, its answer is news. After one that was not answered, no call goes until
one is.
"""

import time
from collections.abc import Callable

# One failure is an accident, and a client that breaks its own calls needs some luck to make so many in a row.
FAILURES = 5
# A restart is over soon; and whatever it was, calls come back within 5 s of its end.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 3.0


class Breaker:
    """What is known of one address that failed lately.

    A failure is no answer at all. Any answer is none, also a refusal, however late; nor is a call that was
    given up. A probe that nobody has heard of holds up no later one: it may be a call of minutes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._next_probe: float | None = None
        self.down = False
        self.refusing = False

    @property
    def open(self) -> bool:
        return self._next_probe is not None

    @property
    def seconds_left(self) -> float:
        """How long until the next call may go; while it is down, about how long until it is looked at."""
        left = 0.0 if self._next_probe is None else max(0.0, self._next_probe - self._clock())
        return min(left, LONGEST_PAUSE_SECONDS)

    def admits(self) -> bool:
        """Say whether a call may go. While open, it is the one probe of this pause."""
        if not self.open:
            return True
        if self.seconds_left:
            return False
        self._wait()
        return True

    def failed(self, *, probe: bool, sent: bool = True, refused: bool = False) -> None:
        """A call failed; `probe`: it was admitted while open, `sent`: it may have reached somebody,
        `refused`: it was told at once that nobody is there."""
        self._failures += 1
        self.down = self.down or not sent
        self.refusing = refused
        if self.open:
            if probe:  # others went out before it opened, and say nothing new
                self._next_probe = max(self._next_probe or 0.0, self._clock() + self._pause / 2)
        elif self._failures >= FAILURES:
            self._wait()

    def found_down(self, seconds: float) -> None:
        """A health check found nobody: no call goes for so long, when another check is due."""
        self.down = True
        self._next_probe = self._clock() + seconds

    def _wait(self) -> None:
        self._next_probe = self._clock() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def __repr__(self) -> str:
        state = f"{'down' if self.down else 'open'} for {self.seconds_left:.1f} s" if self.open else "closed"
        return f"<Breaker {state}, {self._failures} failures>"


class Breakers:
    """The breakers of all addresses. Only those that failed since their last answer have one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._troubled: dict[str, Breaker] = {}

    @property
    def calm(self) -> bool:
        """Whether nothing failed lately, anywhere."""
        return not self._troubled

    def admits(self, origin: str) -> bool:
        breaker = self._troubled.get(origin)
        return breaker is None or breaker.admits()

    def is_open(self, origin: str) -> bool:
        breaker = self._troubled.get(origin)
        return breaker is not None and breaker.open

    def seconds_left(self, origin: str) -> float:
        breaker = self._troubled.get(origin)
        return 0.0 if breaker is None else breaker.seconds_left

    def is_refusing(self, origin: str) -> bool:
        """Whether the last call was told that nobody is there."""
        breaker = self._troubled.get(origin)
        return breaker is not None and breaker.refusing

    def failed(self, origin: str, *, probe: bool, sent: bool = True, refused: bool = False) -> None:
        breaker = self._troubled.setdefault(origin, Breaker(self._clock))
        breaker.failed(probe=probe, sent=sent, refused=refused)

    def answered(self, origin: str, *, probe: bool) -> None:
        """An address answered: calls that went out before it was given up do not bring it back."""
        if self._troubled and (probe or not self.is_open(origin)):
            self._troubled.pop(origin, None)

    def found_down(self, origin: str, seconds: float) -> None:
        """A health check found nobody at an address; that holds for so long without another check."""
        self._troubled.setdefault(origin, Breaker(self._clock)).found_down(seconds)

    def found_up(self, origin: str) -> None:
        """A health check was answered: an address that was down is back."""
        breaker = self._troubled.get(origin)
        if breaker is not None and breaker.down:
            self.readmit(origin)

    def readmit(self, origin: str) -> None:
        """Forget what was before: something new lives at this address."""
        self._troubled.pop(origin, None)

    def __repr__(self) -> str:
        return f"<Breakers {self._troubled}>"
