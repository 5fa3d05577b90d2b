"""From values to places on a chart, and the ticks between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_TICKS = 6


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels; logarithmic where values of many sizes stand together."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        if self.logarithmic:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def linear(values: Sequence[float], start: float, end: float, *, tight: bool = False) -> Axis:
    """From 0 to the tick above the largest value, or where it is `tight` to that value."""
    top = max(values, default=0.0) or 1.0
    step = nice(top / (MOST_TICKS - 1))
    count = math.ceil(top / step - 1e-9)
    high = top if tight else step * count
    ticks = tuple(step * i for i in range(count + 1) if step * i <= high * (1 + 1e-9))
    return Axis(0.0, high, start, end, False, ticks)


def logarithmic(values: Sequence[float], start: float, end: float, ticks: Sequence[float] = ()) -> Axis:
    """Whole decades, or from the first to the last of the given ticks."""
    known = [value for value in values if value > 0] or [1.0]
    if ticks:
        low, high = min(ticks), max(ticks)
        if low == high:
            low, high = low / 2, high * 2
        return Axis(low, high, start, end, True, tuple(ticks))
    first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    last = max(last, first + 1)
    return Axis(10.0**first, 10.0**last, start, end, True, tuple(10.0**i for i in range(first, last + 1)))


def nice(step: float) -> float:
    """The next of 1, 2, 5, 10 … that is not smaller."""
    decade = 10.0 ** math.floor(math.log10(step))
    return next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= step * (1 - 1e-9))


def apart(axis: Axis, room: float) -> list[float]:
    """Leave out ticks whose labels would touch; the last one stays."""
    kept: list[float] = []
    for tick in reversed(axis.ticks):
        if not kept or abs(axis.place(tick) - axis.place(kept[-1])) >= room:
            kept.append(tick)
    return kept[::-1]


def figure(value: float) -> str:
    """Three figures: 12,300, 412, 1.25, 0.034."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
