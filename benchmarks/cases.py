"""The cases of the table: who is set beside whom, what must hold, and what the rounds say about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from benchmarks.figures import Limit, Spread, at_most, differences, ratios, times
from benchmarks.measures import Kind, Measure
from benchmarks.subjects import (
    AIOHTTP,
    DIRECT,
    GRANIAN,
    HYPERCORN,
    LITERAL,
    NGINX,
    NGINX_WIDE,
    NULL_GRANIAN,
    NULL_HYPERCORN,
    PROXY_LIB,
    STARLETTE,
    SUBJECTS,
)

Results = Mapping[tuple[Kind, str], Sequence[Measure]]

MOST_GROWTH = at_most(32, None, "MB")


class Compare(Enum):
    RATIO = auto()
    ADDED = auto()
    GROWTH = auto()


@dataclass(frozen=True)
class Case:
    """One line of the table; without a limit it is there for reference."""

    group: str
    kind: Kind
    subject: str
    against: str | None
    compare: Compare = Compare.RATIO
    limit: Limit | None = None

    @property
    def title(self) -> str:
        what = SUBJECTS[self.subject].name
        if self.compare is Compare.GROWTH:
            return f"{self.kind}: resident growth, {what}"
        beside = SUBJECTS[self.against].name if self.against else ""
        return f"{self.kind}: {what} vs {beside}"

    @property
    def unit(self) -> str:
        return {Compare.RATIO: "×", Compare.ADDED: "ms", Compare.GROWTH: "MB"}[self.compare]

    @property
    def needs(self) -> set[tuple[Kind, str]]:
        return {(self.kind, subject) for subject in (self.subject, self.against) if subject}

    def said_by(self, results: Results) -> Spread:
        """Return what the rounds say."""
        ours = results[self.kind, self.subject]
        if self.compare is Compare.GROWTH:
            return Spread.of([one.more["growth_mb"] for one in ours])
        theirs = results[self.kind, self.against or ""]
        compared = ratios if self.compare is Compare.RATIO else differences
        return Spread.of(compared([one.value for one in ours], [one.value for one in theirs]))

    def by_core_time(self, results: Results) -> Spread | None:
        """Return the ratio of what both could do with a whole core, or None where that says nothing."""
        if self.compare is not Compare.RATIO or self.against is None:
            return None
        ours, theirs = results[self.kind, self.subject], results[self.kind, self.against]
        pairs = [(one.core_rate, other.core_rate) for one, other in zip(ours, theirs, strict=True)]
        known = [(one, other) for one, other in pairs if one and other]
        return Spread.of([one / other for one, other in known]) if known else None

    def verdict(self, said: Spread) -> str:
        """Growth is judged by its worst round, everything else by the middle one."""
        if self.limit is None:
            return ""
        return self.limit.verdict(said.highest if self.compare is Compare.GROWTH else said.middle)


def _large(kind: Kind, subject: str, limit: Limit) -> tuple[Case, ...]:
    return (
        Case(kind, kind, subject, NGINX, limit=limit),
        Case(kind, kind, subject, None, Compare.GROWTH, MOST_GROWTH),
        Case(kind, kind, subject, NGINX_WIDE),
        Case(kind, kind, subject, DIRECT),
    )


CASES: tuple[Case, ...] = (
    Case("small", Kind.SMALL, GRANIAN, AIOHTTP, limit=times(0.7, 1.25)),
    Case("null", Kind.SMALL, HYPERCORN, NULL_HYPERCORN, limit=times(0.33, 0.5)),
    Case("null", Kind.SMALL, GRANIAN, NULL_GRANIAN),
    Case("httpx", Kind.SMALL, GRANIAN, STARLETTE, limit=times(4, 10)),
    Case("httpx", Kind.SMALL, HYPERCORN, STARLETTE, limit=times(4, 10)),
    Case("httpx", Kind.SMALL, GRANIAN, LITERAL, limit=times(4, 10)),
    Case("httpx", Kind.SMALL, HYPERCORN, LITERAL, limit=times(4, 10)),
    Case("peers", Kind.SMALL, HYPERCORN, AIOHTTP),
    Case("peers", Kind.SMALL, GRANIAN, PROXY_LIB),
    Case("peers", Kind.SMALL, HYPERCORN, PROXY_LIB),
    Case("peers", Kind.SMALL, GRANIAN, NGINX),
    Case("peers", Kind.SMALL, HYPERCORN, NGINX),
    *_large(Kind.DOWNLOAD, GRANIAN, times(2, 3)),
    *_large(Kind.DOWNLOAD, HYPERCORN, times(2, 3)),
    *_large(Kind.UPLOAD, GRANIAN, times(0.9, 1)),
    *_large(Kind.UPLOAD, HYPERCORN, times(0.5, 0.9)),
    Case("latency", Kind.LATENCY, GRANIAN, DIRECT, Compare.ADDED, at_most(1, 0.4, "ms")),
    Case("latency", Kind.LATENCY, HYPERCORN, DIRECT, Compare.ADDED, at_most(1, 0.4, "ms")),
    # What others add on this machine: a core that was put to sleep takes its time to wake up.
    Case("latency", Kind.LATENCY, AIOHTTP, DIRECT, Compare.ADDED),
    Case("latency", Kind.LATENCY, NGINX, DIRECT, Compare.ADDED),
)
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(case.group for case in CASES))


def chosen(groups: Sequence[str]) -> tuple[Case, ...]:
    return tuple(case for case in CASES if not groups or case.group in groups)


def plan(cases: Sequence[Case]) -> dict[str, list[Kind]]:
    """Return what has to be measured of each subject, in the table's order."""
    wanted = set[tuple[Kind, str]]().union(*(case.needs for case in cases))
    kinds = {name: [kind for kind in Kind if (kind, name) in wanted] for name in SUBJECTS}
    return {name: found for name, found in kinds.items() if found}
