"""Members of a scenario file, read with their types; what is wrong is said with its place."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, overload

LONGEST_THINK_SECONDS = 600.0
MOST_TIMES = 1_000
MOST_PARTS = 20


class ScenarioError(Exception):
    """A scenario cannot be used; the text says where and why."""


class Fields:
    """One JSON object of the file and where it stands. Every method raises ScenarioError."""

    def __init__(self, place: str, found: Any) -> None:
        self._place = place
        if not isinstance(found, dict):
            raise self.wrong("must be a JSON object")
        self._found: Mapping[str, Any] = found

    def __repr__(self) -> str:
        return f"<Fields of {self._place}>"

    def wrong(self, what: str) -> ScenarioError:
        return ScenarioError(f"{self._place}: {what}")

    def only(self, *names: str) -> None:
        for name in self._found:
            if name not in names:
                raise self.wrong(f"{name!r} is not known here, only {', '.join(names)}")

    def has(self, name: str) -> bool:
        return name in self._found

    def value(self, name: str) -> Any:
        return self._found.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        value = self._found.get(name, default)
        if not isinstance(value, str):
            raise self.wrong(f"{name} must be a text")
        return value

    def texts(self, name: str) -> Mapping[str, str]:
        value = self._found.get(name, {})
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise self.wrong(f"{name} must be an object of texts")
        return value

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise self.wrong(f"{name} must be one of {', '.join(choices)}")
        return value

    def flag(self, name: str) -> bool:
        value = self._found.get(name, False)
        if not isinstance(value, bool):
            raise self.wrong(f"{name} must be true or false")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        return self._within(name, self._found.get(name, default), low, high)

    @overload
    def span(self, name: str, default: tuple[float, float]) -> tuple[float, float]: ...
    @overload
    def span(self, name: str, default: None) -> tuple[float, float] | None: ...
    def span(self, name: str, default: tuple[float, float] | None) -> tuple[float, float] | None:
        """A number, or least and most."""
        if name not in self._found:
            return default
        return self._pair(name, 0.0, LONGEST_THINK_SECONDS)

    def counts(self, name: str, default: tuple[int, int]) -> tuple[int, int]:
        if name not in self._found:
            return default
        low, high = self._pair(name, 0, MOST_TIMES)
        if low != int(low) or high != int(high):
            raise self.wrong(f"{name} must be whole numbers")
        return int(low), int(high)

    def weights(self, name: str) -> list[tuple[str, float]]:
        value = self._found[name]
        if not isinstance(value, dict) or not 0 < len(value) <= MOST_PARTS:
            raise self.wrong(f"{name} must be an object of scenario names and weights")
        weights = [(part, self._within(f"{name}.{part}", weight, 0, 1e6)) for part, weight in value.items()]
        if not any(weight for _, weight in weights):
            raise self.wrong(f"{name} needs a weight above 0")
        return weights

    def objects(self, name: str, most: int) -> list["Fields"]:
        value = self._found[name]
        if not isinstance(value, list) or not 0 < len(value) <= most:
            raise self.wrong(f"{name} must be a list of 1 to {most} objects")
        return [Fields(f"{self._place}, {name} {number}", one) for number, one in enumerate(value, 1)]

    def inner(self, name: str) -> "Fields | None":
        return Fields(f"{self._place}, {name}", self._found[name]) if name in self._found else None

    def _pair(self, name: str, low: float, high: float) -> tuple[float, float]:
        value = self._found[name]
        pair = value if isinstance(value, list) else [value, value]
        if len(pair) != 2:
            raise self.wrong(f"{name} must be a number, or least and most")
        least, most = (self._within(name, one, low, high) for one in pair)
        if least > most:
            raise self.wrong(f"{name} has more at least than at most")
        return least, most

    def _within(self, name: str, value: Any, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(f"{name} must be a number")
        if not low <= value <= high:
            raise self.wrong(f"{name} must be from {low:,g} to {high:,g}")
        return float(value)
