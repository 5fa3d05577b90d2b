"""Counting in sliding windows, in the memory of this process: pure, with a clock that nobody sets.

A window is approximated by two counters, as in the store that processes share: the present window's, and the
last one's by the share of it that still lies within reach.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_KEYS = 50_000  # some 10 MB; beyond, whoever was seen longest ago starts anew


@dataclass(frozen=True, slots=True)
class Counts:
    """Two windows of one key: what they counted, and in how many seconds it is forgotten."""

    previous: int
    previous_left: float
    current: int
    current_left: float

    def wait_seconds(self, limit: int, window: float) -> float:
        """Return how long until one more is within the limit, as a window of so many seconds slides on."""
        if self.current < limit:
            weighed = self.previous * self.previous_left / window
            if math.floor(weighed) + self.current < limit:
                return 0.0
            return max(0.0, self.previous_left - (limit - self.current) * window / self.previous)
        # The present window has to end first, and then to slide out of reach far enough.
        rest = max(0.0, self.current_left - window)
        return rest + max(0.0, window - limit * window / self.current)


@dataclass(slots=True)
class _Window:
    began: float
    previous: int
    current: int


class Windows:
    """At most `most` keys, each with its own windows."""

    def __init__(self, *, most: int = MOST_KEYS, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._monotonic = monotonic
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` more for a key if that stays within the limit for `expiry` seconds."""
        now = self._monotonic()
        window = self._windows.setdefault(key, _Window(now, 0, 0))
        self._windows.move_to_end(key)
        if len(self._windows) > self._most:
            self._windows.popitem(last=False)
        counts = self._slid(window, now, expiry)
        weighed = math.floor(counts.previous * counts.previous_left / expiry) + counts.current
        if weighed + amount > limit:
            return False
        window.current += amount
        return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return what was counted: in the previous and in the present window, each with its seconds left."""
        now = self._monotonic()
        window = self._windows.get(key)
        if window is None:
            return 0, 0.0, 0, 0.0
        counts = self._slid(window, now, expiry)
        return counts.previous, counts.previous_left, counts.current, counts.current_left

    @staticmethod
    def _slid(window: _Window, now: float, expiry: int) -> Counts:
        passed = int((now - window.began) // expiry)
        if passed:
            window.previous = window.current if passed == 1 else 0
            window.current = 0
            window.began += passed * expiry
        rest = window.began + expiry - now
        return Counts(window.previous, rest, window.current, rest + expiry)

    def __len__(self) -> int:
        return len(self._windows)
