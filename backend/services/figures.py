"""Counts every request that is over, in about a microsecond; who asks works everything else out."""

from bisect import bisect_left
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

from backend.services import sketches
from backend.services.counts import BUCKETS, SLOT_SECONDS, WINDOW_SECONDS, Counts, Series, Slot
from backend.services.trail import Trail

# A method is the client's to invent: those that nobody knows share a label.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
OTHER_METHODS = "other"
# Sorted in together: a tenth of a millisecond, during which nobody is served.
AT_ONCE = 100

Noted = tuple[Trail, float, str, str, "Trouble | None", int, int]


class Trouble(NamedTuple):
    """What was wrong with a request: whose fault it was, and the code of the error."""

    source: str
    code: str


def end_of_slot(now: float) -> float:
    """Return the next moment at which slots begin, in all workers of a machine at once."""
    return (now // SLOT_SECONDS + 1) * SLOT_SECONDS


class Figures:
    """The counts of this process, or what it took over and its own."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self.began = clock()
        self._counts = Counts()
        self._series = self._counts.series
        self._noted: list[Noted] = []
        self._slot = Slot(self.began)
        self._slot_ends = end_of_slot(self.began)
        self._counts.slots.append(self._slot)

    def count(
        self,
        trail: Trail,
        method: str,
        kind: str,
        trouble: Trouble | None,
        received: int,
        sent: int,
        took: float | None = None,
    ) -> None:
        """Count a request that is over now; `kind` is the class of its answer, the sizes are in bytes.

        `took` is what counts as its duration in seconds, where that is not all the time since it began.

        It is noted only: many at once cost half as much to sort in as each by itself.
        """
        now = self._clock()
        if now >= self._slot_ends:
            self._turn(now)
        seconds = now - trail.began if took is None else took
        self._noted.append((trail, seconds, method, kind, trouble, received, sent))
        if len(self._noted) >= AT_ONCE:
            self._sort_in()

    def _sort_in(self) -> None:
        """Add what was noted to the slot and series that it belongs to."""
        noted, self._noted = self._noted, []
        slot = self._slot
        durations, owns, known = slot.durations, slot.owns, self._series
        fine, coarse, place = sketches.BOUNDS, BUCKETS, bisect_left
        for trail, seconds, method, kind, trouble, received, sent in noted:
            slot.received += received
            slot.sent += sent
            slot.seconds += seconds
            durations[place(fine, seconds)] += 1
            series = known.get((trail.route, method, kind)) or self._series_of(trail.route, method, kind)
            series.count += 1
            sums, (took, own_took, upstream_took, head_took) = series.sums, series.buckets
            sums[0] += seconds
            took[place(coarse, seconds)] += 1
            head = trail.head
            if head is not None:
                own, upstream = trail.own, trail.upstream_head
                slot.own_seconds += own
                owns[place(fine, own)] += 1
                series.heads += 1
                sums[1] += own
                own_took[place(coarse, own)] += 1
                sums[2] += upstream
                upstream_took[place(coarse, upstream)] += 1
                sums[3] += head
                head_took[place(coarse, head)] += 1
            if trouble is not None:
                slot.errors += 1
                slot.faults[trouble.source] = slot.faults.get(trouble.source, 0) + 1
                error = (*trouble, trail.upstream_name or "")
                self._counts.errors[error] = self._counts.errors.get(error, 0) + 1
        slot.requests += len(noted)

    def taken(self) -> Counts:
        """Return the counts of this moment."""
        self._sort_in()
        now = self._clock()
        if now >= self._slot_ends:
            self._turn(now)
        return self._counts.copy()

    def slot_between(self, began: float, ended: float) -> Slot:
        """Return what was counted in a slot that is over."""
        if self._clock() >= self._slot_ends:
            self._turn(self._clock())
        return Slot.together(slot for slot in self._counts.slots if began <= slot.began < ended)

    def take_over(self, counts: Counts) -> None:
        """Go on from what another process had counted: totals only ever grow."""
        for key, series in counts.series.items():
            self._series.setdefault(key, Series()).add(series)
        for error, count in counts.errors.items():
            self._counts.errors[error] = self._counts.errors.get(error, 0) + count
        self._counts.past = Slot.together((self._counts.past, counts.past, *counts.slots))

    def _series_of(self, route: str, method: str, kind: str) -> Series:
        known = method if method in METHODS else OTHER_METHODS
        return self._series.setdefault((route, known, kind), Series())

    def _turn(self, now: float) -> None:
        """Begin a new slot; those that are older than the window join the past."""
        self._sort_in()
        counts = self._counts
        oldest = now - WINDOW_SECONDS - SLOT_SECONDS
        counts.past = Slot.together((counts.past, *(slot for slot in counts.slots if slot.began <= oldest)))
        counts.slots = [slot for slot in counts.slots if slot.began > oldest]
        self._slot = Slot(now)
        self._slot_ends = end_of_slot(now)
        counts.slots.append(self._slot)

    def __repr__(self) -> str:
        return f"<Figures {self.taken().whole.requests} requests, {len(self._series)} series>"
