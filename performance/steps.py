"""What simultaneous calls did, and what several rounds of them say together."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Self

from performance.answers import Answer, Failure
from performance.durations import percentile
from performance.effort import Effort


@dataclass(frozen=True)
class Spread:
    """What several rounds said: the middle one and both ends."""

    middle: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Self | None:
        """None where no round has a value."""
        known = [value for value in values if value is not None]
        return cls(median(known), min(known), max(known)) if known else None


@dataclass(frozen=True)
class Step:
    """What simultaneous calls did; durations are seconds of the successful ones since the common start."""

    users: int
    wall: float
    durations: tuple[float, ...]
    size: int
    failures: tuple[Failure, ...]
    serial_mean: float
    extrapolated: bool
    effort: Effort | None = None

    @classmethod
    def of(cls, answers: Sequence[Answer], serial: Sequence[float], effort: Effort | None = None) -> Self:
        return cls(
            users=len(answers),
            wall=max(answer.seconds for answer in answers),
            durations=tuple(sorted(answer.seconds for answer in answers if not answer.failure)),
            size=sum(answer.size for answer in answers),
            failures=tuple(answer.failure for answer in answers if answer.failure),
            serial_mean=sum(serial) / len(serial),
            extrapolated=len(answers) > len(serial),
            effort=effort,
        )

    @property
    def mean(self) -> float | None:
        return sum(self.durations) / len(self.durations) if self.durations else None

    def at(self, percent: int) -> float | None:
        return percentile(self.durations, percent) if self.durations else None

    @property
    def throughput(self) -> float:
        return len(self.durations) / self.wall

    @property
    def success_percent(self) -> float:
        return rounded_down(len(self.durations), self.users)

    @property
    def serial_seconds(self) -> float:
        return self.users * self.serial_mean

    @property
    def speed_up(self) -> float:
        """Failed calls count for nothing: else a gateway that refuses everybody would be the fastest."""
        return len(self.durations) * self.serial_mean / self.wall


def rounded_down(good: int, of: int) -> float:
    """Percent: one failure in 20,000 must not read as 100."""
    return math.floor(1000 * good / of) / 10


def kinds(failures: Sequence[Failure]) -> list[tuple[Failure, int]]:
    """The first failure of each kind and how often the kind came, most frequent first."""
    first = {failure.kind: failure for failure in reversed(failures)}
    counted = Counter(failure.kind for failure in failures)
    return [(first[kind], count) for kind, count in counted.most_common()]


@dataclass
class Rung:
    """One number of users, climbed in every round."""

    users: int
    rounds: list[Step] = field(default_factory=list)

    def spread(self, value: Callable[[Step], float | None]) -> Spread | None:
        return Spread.of([value(step) for step in self.rounds])

    def middle(self, value: Callable[[Step], float | None]) -> float | None:
        spread = self.spread(value)
        return None if spread is None else spread.middle

    @property
    def wall(self) -> float:
        return median(step.wall for step in self.rounds)

    @property
    def failures(self) -> list[Failure]:
        return [failure for step in self.rounds for failure in step.failures]

    @property
    def succeeded(self) -> int:
        return sum(len(step.durations) for step in self.rounds)

    @property
    def success_percent(self) -> float:
        return rounded_down(self.succeeded, self.users * len(self.rounds))

    @property
    def size(self) -> int:
        return sum(step.size for step in self.rounds)

    @property
    def efforts(self) -> list[Effort]:
        return [step.effort for step in self.rounds if step.effort is not None]
