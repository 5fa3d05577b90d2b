"""What was measured so far."""

from dataclasses import dataclass, field

from performance.answers import Failure
from performance.outcome import CALL_FAILED, FINE, INTERRUPTED
from performance.steps import Rung
from performance.tally import Tally


@dataclass
class Crowd:
    """One number of users that came, went on for a while, and left; in every round."""

    users: int
    rounds: list[Tally] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(tally.total.failed for tally in self.rounds)

    @property
    def names(self) -> list[str]:
        """Acts that were called or left out, in the order of the scenario."""
        found = {name: None for tally in self.rounds for name, count in tally.counts.items() if count.calls}
        return list(found)


@dataclass
class Record:
    """Grows during the run, so that Ctrl-C loses only what it hits."""

    serial: list[float] = field(default_factory=list)
    serial_failures: list[Failure] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)
    crowds: list[Crowd] = field(default_factory=list)
    window: Tally | None = None
    notes: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def begun(self) -> bool:
        tallies = [tally for crowd in self.crowds for tally in crowd.rounds]
        return bool(self.serial or self.serial_failures or any(tally.total.calls for tally in tallies))

    @property
    def steps(self) -> list[Rung]:
        return [rung for rung in self.rungs if rung.rounds]

    @property
    def serial_mean(self) -> float | None:
        return sum(self.serial) / len(self.serial) if self.serial else None

    def too_slow(self, limit: float | None) -> list[Rung]:
        return [rung for rung in self.steps if limit is not None and rung.wall > limit]

    def slow_acts(self, limit: float | None) -> list[tuple[Crowd, str, float]]:
        """Acts of a crowd whose p95 is above the limit, in the worst round."""
        found = []
        for crowd in self.crowds if limit is not None else ():
            for name in crowd.names:
                worst = max(tally.count(name).durations.at(95) or 0.0 for tally in crowd.rounds)
                if limit is not None and worst > limit:
                    found.append((crowd, name, worst))
        return found

    def exit_code(self, limit: float | None) -> int:
        if not self.complete:
            return INTERRUPTED
        failed = len(self.serial_failures) + sum(len(rung.failures) for rung in self.rungs)
        failed += sum(crowd.failed for crowd in self.crowds)
        failed += 0 if self.window is None else self.window.total.failed
        return CALL_FAILED if failed or self.too_slow(limit) or self.slow_acts(limit) else FINE
