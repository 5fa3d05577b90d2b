"""What was counted: by one worker, of one that has ended, or of all together. Plain numbers that add up."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backend.services import sketches

# What is measured of a request, in seconds: to its last byte, the gateway's own part, the part of upstreams,
# to the head of its answer.
KINDS = ("duration", "own", "upstream", "head")
# Upper bounds of the coarse buckets that each route has; the avatar services' calls take up to 15 minutes.
BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    900.0,
)
SLOT_SECONDS = 5.0
WINDOW_SECONDS = 60.0

Key = tuple[str, str, str]
"""Route template, method, class of the answer."""


class Series:
    """The requests of one route, method and class."""

    __slots__ = ("buckets", "count", "heads", "sums")

    def __init__(self) -> None:
        self.count = 0
        # Requests whose client left before the head have a duration, and nothing else.
        self.heads = 0
        self.sums = [0.0] * len(KINDS)
        self.buckets = [[0] * (len(BUCKETS) + 1) for _ in KINDS]

    def add(self, other: "Series") -> None:
        self.count += other.count
        self.heads += other.heads
        self.sums = [mine + more for mine, more in zip(self.sums, other.sums, strict=True)]
        self.buckets = [
            [mine + more for mine, more in zip(*both, strict=True)]
            for both in zip(self.buckets, other.buckets, strict=True)
        ]

    def copy(self) -> "Series":
        other = Series()
        other.count, other.heads, other.sums = self.count, self.heads, self.sums[:]
        other.buckets = [counts[:] for counts in self.buckets]
        return other

    def packed(self) -> list[Any]:
        return [self.count, self.heads, self.sums, self.buckets]

    @classmethod
    def unpacked(cls, told: list[Any]) -> "Series":
        series = cls()
        series.count, series.heads, series.sums, series.buckets = told
        if [len(counts) for counts in series.buckets] != [len(BUCKETS) + 1] * len(KINDS):
            raise ValueError("other buckets than these")
        return series


@dataclass(slots=True)
class Slot:
    """A few seconds of all requests; `began` by the clock that all processes of a machine share."""

    began: float
    requests: int = 0
    errors: int = 0
    received: int = 0
    sent: int = 0
    seconds: float = 0.0
    own_seconds: float = 0.0
    durations: sketches.Counts = field(default_factory=sketches.empty)
    owns: sketches.Counts = field(default_factory=sketches.empty)
    # How many of the errors were whose fault.
    faults: dict[str, int] = field(default_factory=dict)

    def copy(self) -> "Slot":
        return replace(self, durations=self.durations[:], owns=self.owns[:], faults=dict(self.faults))

    def packed(self) -> list[Any]:
        return [
            self.began,
            self.requests,
            self.errors,
            self.received,
            self.sent,
            self.seconds,
            self.own_seconds,
            sketches.packed(self.durations),
            sketches.packed(self.owns),
            self.faults,
        ]

    @classmethod
    def unpacked(cls, told: list[Any]) -> "Slot":
        *numbers, durations, owns, faults = told
        slot = cls(*numbers)
        slot.durations, slot.owns = sketches.unpacked(durations), sketches.unpacked(owns)
        slot.faults = dict(faults)
        return slot

    @classmethod
    def together(cls, slots: Iterable["Slot"]) -> "Slot":
        """Return one slot that holds what all of them do."""
        parts = list(slots)
        whole = cls(min((part.began for part in parts), default=0.0))
        for name in ("requests", "errors", "received", "sent", "seconds", "own_seconds"):
            setattr(whole, name, sum(getattr(part, name) for part in parts))
        whole.durations = sketches.added(part.durations for part in parts)
        whole.owns = sketches.added(part.owns for part in parts)
        for part in parts:
            for source, count in part.faults.items():
                whole.faults[source] = whole.faults.get(source, 0) + count
        return whole


Error = tuple[str, str, str]
"""Whose fault, the code, and the upstream that had a part in it or nothing."""


@dataclass(slots=True)
class Counts:
    """Everything since the start, `past`, and the last minute in `slots`; what is in a slot is not yet in
    `past`."""

    series: dict[Key, Series] = field(default_factory=dict)
    errors: dict[Error, int] = field(default_factory=dict)
    past: Slot = field(default_factory=lambda: Slot(0.0))
    slots: list[Slot] = field(default_factory=list)

    @property
    def whole(self) -> Slot:
        """Everything since the start."""
        return Slot.together((self.past, *self.slots))

    @property
    def requests(self) -> int:
        """How many of them there were."""
        return self.past.requests + sum(slot.requests for slot in self.slots)

    def lately(self, now: float) -> Slot:
        """What was counted in the last minute, or in somewhat less."""
        return Slot.together(slot for slot in self.slots if slot.began > now - WINDOW_SECONDS)

    def copy(self) -> "Counts":
        """Return the counts of this moment, for a thread to work on while counting goes on."""
        return Counts(
            {key: series.copy() for key, series in self.series.items()},
            dict(self.errors),
            self.past.copy(),
            [slot.copy() for slot in self.slots],
        )

    def packed(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return {
            "series": [[*key, *series.packed()] for key, series in self.series.items()],
            "errors": [[*error, count] for error, count in self.errors.items()],
            "past": self.past.packed(),
            "slots": [slot.packed() for slot in self.slots],
        }

    @classmethod
    def unpacked(cls, told: Mapping[str, Any]) -> "Counts":
        """Raises ValueError, TypeError, KeyError or IndexError for what was not packed here."""
        return cls(
            {(str(a), str(b), str(c)): Series.unpacked(rest) for a, b, c, *rest in told["series"]},
            {(str(a), str(b), str(c)): int(count) for a, b, c, count in told["errors"]},
            Slot.unpacked(told["past"]),
            [Slot.unpacked(slot) for slot in told["slots"]],
        )


def together(several: Iterable[Counts]) -> Counts:
    """Return what all of them counted."""
    whole = Counts()
    pasts: list[Slot] = []
    for counts in several:
        for key, series in counts.series.items():
            whole.series.setdefault(key, Series()).add(series)
        for error, count in counts.errors.items():
            whole.errors[error] = whole.errors.get(error, 0) + count
        pasts.append(counts.past)
        whole.slots += counts.slots
    whole.past = Slot.together(pasts)
    return whole


def cumulated(counts: Iterable[int]) -> Iterator[int]:
    """Yield the counts as Prometheus tells them: each with all before it."""
    sum_so_far = 0
    for count in counts:
        sum_so_far += count
        yield sum_so_far
