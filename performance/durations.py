"""Percentiles: exact while the values are few, in constant memory when they are many."""

from bisect import insort
from collections.abc import Sequence

from ddsketch import DDSketch

EXACT_VALUES = 10_000
ACCURACY = 0.01  # relative, of percentiles out of more values than that


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Nearest rank: the smallest of the ascending values that at least `percent` of them do not exceed."""
    if not ordered or not 0 <= percent <= 100:
        raise ValueError("needs at least one value and 0 to 100 percent")
    rank = -(-percent * len(ordered) // 100)  # whole numbers, as 0.55 * 100 is more than 55
    return ordered[max(rank, 1) - 1]


class Durations:
    """Seconds that came one after another; `exact` until there are more than `most_exact`."""

    def __init__(self, most_exact: int = EXACT_VALUES) -> None:
        self._most_exact = most_exact
        self._ordered: list[float] = []
        self._sketch: DDSketch | None = None
        self.count = 0
        self.total = 0.0
        self.least = float("inf")
        self.most = 0.0

    def __repr__(self) -> str:
        return f"<Durations {self.count}{'' if self.exact else ', sketched'}>"

    @property
    def exact(self) -> bool:
        return self._sketch is None

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.least, self.most = min(self.least, seconds), max(self.most, seconds)
        if self._sketch is not None:
            self._sketch.add(seconds)
        elif self.count <= self._most_exact:
            insort(self._ordered, seconds)
        else:
            self._sketch = DDSketch(ACCURACY)
            for one in (*self._ordered, seconds):
                self._sketch.add(one)
            self._ordered = []

    def at(self, percent: int) -> float | None:
        """Return the value that `percent` of all do not exceed; None where there is none."""
        if not self.count:
            return None
        if self._sketch is None:
            return percentile(self._ordered, percent)
        value = self._sketch.get_quantile_value(percent / 100)
        return None if value is None else min(max(value, self.least), self.most)
