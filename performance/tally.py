"""What a crowd of users saw, counted while it happens, in memory that does not grow with the calls."""

from dataclasses import dataclass, field

from performance.answers import Answer, Failure
from performance.durations import Durations
from performance.effort import Effort
from performance.steps import rounded_down

MOST_KINDS = 50
MOST_MOMENTS = 120
EXACT_OF_A_MOMENT = 200
TOLD_TO_WAIT = 429
OTHERS = "further kinds"


@dataclass
class Count:
    """Of one act: answers, failures, what was left out; limited calls were told to wait and came again."""

    name: str
    answered: int = 0
    limited: int = 0
    skipped: int = 0
    size: int = 0
    durations: Durations = field(default_factory=Durations)
    firsts: Durations = field(default_factory=Durations)
    failures: dict[str, tuple[Failure, int]] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return sum(count for _, count in self.failures.values())

    @property
    def calls(self) -> int:
        return self.answered + self.failed

    @property
    def success_percent(self) -> float | None:
        return rounded_down(self.answered, self.calls) if self.calls else None

    @property
    def kinds(self) -> list[tuple[Failure, int]]:
        return sorted(self.failures.values(), key=lambda kind: -kind[1])

    def add(self, answer: Answer) -> None:
        self.size += answer.size
        if answer.failure is None:
            self.answered += 1
            self.durations.add(answer.seconds)
            if answer.first_seconds is not None:
                self.firsts.add(answer.first_seconds)
            return
        kind = answer.failure.kind
        if kind not in self.failures and len(self.failures) >= MOST_KINDS:
            kind = OTHERS
        first, count = self.failures.get(kind, (Failure(kind, answer.failure.request_id), 0))
        self.failures[kind] = first, count + 1


@dataclass
class Moment:
    """A stretch of time: answers and failures that ended in it."""

    answered: int = 0
    failed: int = 0
    users: int = 0
    durations: Durations = field(default_factory=lambda: Durations(EXACT_OF_A_MOMENT))


class Tally:
    """Of one round of a crowd; its clock starts when counting does.

    Moments get twice as long whenever there are too many of them.
    """

    def __init__(self, users: int, act_names: tuple[str, ...]) -> None:
        self.users = users
        self.counts = {name: Count(name) for name in act_names}
        self.total = Count("all")
        self.seconds = 0.0
        self.unfinished = 0
        self.present = 0
        self.effort: Effort | None = None
        self.width = 1.0
        self.moments: list[Moment] = []

    def __repr__(self) -> str:
        return f"<Tally {self.users} users, {self.total.calls} calls>"

    @property
    def rate(self) -> float:
        """Answered calls a second."""
        return self.total.answered / self.seconds if self.seconds else 0.0

    def add(self, name: str, answer: Answer, ended: float) -> None:
        """Count an answer that ended so many seconds after the start."""
        self.count(name).add(answer)
        self.total.add(answer)
        moment = self.moment(ended)
        if answer.failure is None:
            moment.answered += 1
            moment.durations.add(answer.seconds)
        else:
            moment.failed += 1

    def count(self, name: str) -> Count:
        return self.counts.setdefault(name, Count(name))

    def limited(self, name: str) -> None:
        self.count(name).limited += 1
        self.total.limited += 1

    def skipped(self, name: str) -> None:
        self.count(name).skipped += 1
        self.total.skipped += 1

    def moment(self, at: float) -> Moment:
        """Return the moment of a time; users that are present are noted in it."""
        while (place := int(max(at, 0.0) / self.width)) >= MOST_MOMENTS:
            self.width *= 2
            self.moments = [_both(self.moments[i : i + 2]) for i in range(0, len(self.moments), 2)]
        while len(self.moments) <= place:
            self.moments.append(Moment(users=self.present))
        moment = self.moments[place]
        moment.users = max(moment.users, self.present)
        return moment


def _both(pair: list[Moment]) -> Moment:
    """Percentiles of two halves are kept by their middles: near enough for a chart."""
    both = Moment(sum(one.answered for one in pair), sum(one.failed for one in pair))
    both.users = max(one.users for one in pair)
    for one in pair:
        for percent in range(5, 101, 10):
            if (value := one.durations.at(percent)) is not None:
                both.durations.add(value)
    return both
