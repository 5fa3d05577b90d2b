"""The figures of a report: their headings, their keys in JSON, and how they read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from performance.steps import Rung, Spread, Step
from performance.tally import Count, Tally

Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Column(Generic[Measured]):
    """One figure of one round; several rounds show the middle one."""

    heading: str
    key: str
    value: Callable[[Measured], float | None]
    layout: str = "{:.2f}"

    def spread(self, rounds: Sequence[Measured]) -> Spread | None:
        return Spread.of([self.value(one) for one in rounds])

    def cell(self, rounds: Sequence[Measured]) -> str:
        spread = self.spread(rounds)
        return "-" if spread is None else self.layout.format(spread.middle)


WALL = Column[Step]("wall s", "wall_seconds", lambda step: step.wall)
COLUMNS: tuple[Column[Step], ...] = (
    Column("users", "users", lambda step: step.users, "{:,}"),
    WALL,
    Column("mean s", "mean_seconds", lambda step: step.mean),
    Column("p50 s", "p50_seconds", lambda step: step.at(50)),
    Column("p95 s", "p95_seconds", lambda step: step.at(95)),
    Column("p99 s", "p99_seconds", lambda step: step.at(99)),
    Column("max s", "max_seconds", lambda step: step.at(100)),
    Column("req/s", "throughput_per_second", lambda step: step.throughput, "{:,.1f}"),
    Column("ok %", "success_percent", lambda step: step.success_percent, "{:g}"),
    Column("serial s", "serial_seconds", lambda step: step.serial_seconds, "{:,.1f}"),
    Column("speed-up", "speed_up", lambda step: step.speed_up, "{:,.1f}x"),
)

# One act of one round, and how long that round was.
Part = tuple[Count, float]
ACT_COLUMNS: tuple[Column[Part], ...] = (
    Column("calls", "calls", lambda part: part[0].calls, "{:,.0f}"),
    Column(
        "req/s",
        "throughput_per_second",
        lambda part: part[0].answered / part[1] if part[1] else None,
        "{:,.1f}",
    ),
    Column("ok %", "success_percent", lambda part: part[0].success_percent, "{:g}"),
    Column("mean s", "mean_seconds", lambda part: part[0].durations.mean, "{:.3f}"),
    Column("p50 s", "p50_seconds", lambda part: part[0].durations.at(50), "{:.3f}"),
    Column("p95 s", "p95_seconds", lambda part: part[0].durations.at(95), "{:.3f}"),
    Column("p99 s", "p99_seconds", lambda part: part[0].durations.at(99), "{:.3f}"),
    Column("max s", "max_seconds", lambda part: part[0].durations.most or None, "{:.3f}"),
    Column("first byte s", "first_byte_p50_seconds", lambda part: part[0].firsts.at(50), "{:.3f}"),
)


def step_headings(rounds: int) -> list[str]:
    return [column.heading for column in COLUMNS] + (["wall min … max"] if rounds > 1 else [])


def step_cells(rung: Rung, rounds: int) -> list[str]:
    cells = [column.cell(rung.rounds) for column in COLUMNS]
    if rounds > 1 and (spread := WALL.spread(rung.rounds)) is not None:
        cells.append(f"{spread.lowest:.2f} … {spread.highest:.2f}")
    return cells


def act_headings(rounds: int) -> list[str]:
    return ["call", *(column.heading for column in ACT_COLUMNS), *(["p95 min … max"] if rounds > 1 else [])]


def act_cells(name: str, tallies: Sequence[Tally], rounds: int) -> list[str]:
    """Cells of an act, or of all of them where the name is `all`."""
    parts = parts_of(name, tallies)
    cells = [name, *(column.cell(parts) for column in ACT_COLUMNS)]
    if rounds > 1:
        spread = Spread.of([count.durations.at(95) for count, _ in parts])
        cells.append("-" if spread is None else f"{spread.lowest:.3f} … {spread.highest:.3f}")
    return cells


def parts_of(name: str, tallies: Sequence[Tally]) -> list[Part]:
    return [(tally.total if name == "all" else tally.count(name), tally.seconds) for tally in tallies]
