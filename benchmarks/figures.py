"""Figures out of repeated rounds: medians, spreads, percentiles, and what they say beside a limit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self


@dataclass(frozen=True)
class Spread:
    """What several rounds said: the middle one and both ends."""

    middle: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Raises ValueError when there is no value."""
        if not values:
            raise ValueError("no rounds")
        return cls(median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return ours / theirs round by round: what disturbs one round of the machine disturbs both sides."""
    return [one / other if other else math.inf for one, other in zip(ours, theirs, strict=True)]


def differences(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(ours, theirs, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the least value that `share` of all do not exceed.

    Raises ValueError when there is no value, or `share` is not within 0 to 1.
    """
    if not values or not 0 <= share <= 1:
        raise ValueError("needs values, and a share from 0 to 1")
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


@dataclass(frozen=True)
class Limit:
    """What must hold (`at_least`) and what is aimed at (`goal`)."""

    at_least: float
    goal: float | None
    unit: str
    more_is_better: bool

    def verdict(self, measured: float) -> str:
        if not self._holds(measured, self.at_least):
            return "short"
        return "ok, goal" if self.goal is not None and self._holds(measured, self.goal) else "ok"

    def _holds(self, measured: float, wanted: float) -> bool:
        return measured >= wanted if self.more_is_better else measured <= wanted


def times(at_least: float, goal: float) -> Limit:
    """As many times as fast."""
    return Limit(at_least, goal, "×", more_is_better=True)


def at_most(most: float, goal: float | None, unit: str) -> Limit:
    return Limit(most, goal, unit, more_is_better=False)
