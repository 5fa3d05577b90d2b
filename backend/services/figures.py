"""Counts every request that is over, in about a microsecond; who asks works everything else out."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

from backend.services import sketches
from backend.services.counts import BUCKETS, SLOT_SECONDS, WINDOW_SECONDS, Counts, Key, Series, Slot
from backend.services.trail import Trail

# A method is the client's to invent: those that nobody knows share a label.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
OTHER_METHODS = "other"
# Sorted in together: some tenth of a millisecond, during which nobody is served.
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
        noted = self._noted
        noted.append((trail, seconds, method, kind, trouble, received, sent))
        if len(noted) >= AT_ONCE:
            self._sort_in()

    def _sort_in(self) -> None:
        """Add what was noted to the slot and series that it belongs to."""
        noted, self._noted = self._noted, []
        slot = self._slot
        slot.requests += len(noted)
        alike: dict[Key, list[tuple[Trail, float]]] = defaultdict(list)
        for trail, seconds, method, kind, trouble, received, sent in noted:
            alike[trail.route, method, kind].append((trail, seconds))
            slot.received += received
            slot.sent += sent
            if trouble is not None:
                self._blame(trouble, trail.upstream_name)
        for key, ended in alike.items():
            self._add(self._series.get(key) or self._series_of(*key), ended)

    def _add(self, series: Series, ended: Sequence[tuple[Trail, float]]) -> None:
        slot = self._slot
        durations = [seconds for _, seconds in ended]
        headed = [trail for trail, _ in ended if trail.head is not None]
        owns = [trail.own for trail in headed]
        upstreams = [trail.upstream_head for trail in headed]
        heads = [trail.head for trail in headed if trail.head is not None]
        series.count += len(ended)
        series.heads += len(headed)
        for number, times in enumerate((durations, owns, upstreams, heads)):
            times.sort()
            series.sums[number] += sum(times)
            _count_coarsely(series.buckets[number], times)
        slot.seconds += sum(durations)
        slot.own_seconds += sum(owns)
        _count_finely(slot.durations, durations)
        _count_finely(slot.owns, owns)

    def _blame(self, trouble: Trouble, upstream_name: str | None) -> None:
        slot, errors = self._slot, self._counts.errors
        slot.errors += 1
        slot.faults[trouble.source] = slot.faults.get(trouble.source, 0) + 1
        error = (*trouble, upstream_name or "")
        errors[error] = errors.get(error, 0) + 1

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


def _count_coarsely(buckets: list[int], times: Sequence[float]) -> None:
    """Count sorted times: a search for each of the few buckets that they lie in, not for each time."""
    done = 0
    while done < len(times):
        number = bisect_left(BUCKETS, times[done])
        below = bisect_right(times, BUCKETS[number], done) if number < len(BUCKETS) else len(times)
        buckets[number] += below - done
        done = below


def _count_finely(bins: sketches.Counts, times: Sequence[float]) -> None:
    """Count sorted times: a search among the bounds around them, which are few of a thousand."""
    if not times:
        return
    lowest = bisect_left(sketches.BOUNDS, times[0])
    around = sketches.BOUNDS[lowest : bisect_left(sketches.BOUNDS, times[-1]) + 1]
    for seconds in times:
        bins[lowest + bisect_left(around, seconds)] += 1
