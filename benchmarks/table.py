"""`python -m benchmarks.table`: the gateway beside its peers, as ratios of one run.

Each subject runs alone on one core, with load and upstream on another, several rounds in turns.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import command, report
from benchmarks.cases import GROUPS, Case, Results, chosen, plan
from benchmarks.figures import Spread
from benchmarks.machine import described, require
from benchmarks.measures import Kind, Measure, measured
from benchmarks.subjects import SUBJECTS, Stage

TOOLS = ("nginx", "wrk", "taskset", "setpriv")
VERSIONS = (
    "flask",
    "hypercorn",
    "granian",
    "uvloop",
    "pyreqwest",
    "httpx",
    "aiohttp",
    "starlette",
    "uvicorn",
)
UNITS: Mapping[Kind, str] = {
    Kind.SMALL: "req/s",
    Kind.DOWNLOAD: "MB/s",
    Kind.UPLOAD: "MB/s",
    Kind.LATENCY: "ms median",
}
# Below it the subject waited for the load or the upstream, so that its figure is a lower bound.
SATURATED = 0.9


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.table", "Measure the gateway beside its peers.")
    parser.add_argument("--rounds", type=command.whole(1, 50), default=3, metavar="N")
    parser.add_argument(
        "--seconds", type=command.between(0.1, 60), default=3.0, metavar="S", help="of each measurement"
    )
    parser.add_argument(
        "--only", type=_groups, default=(), metavar="NAME,...", help=f"of {', '.join(GROUPS)}"
    )
    return parser.parse_args(arguments)


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in GROUPS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'}: choose of {', '.join(GROUPS)}")
    return names


def main(asked: argparse.Namespace, folder: Path) -> int:
    cases = chosen(asked.only)
    kinds = plan(cases)
    require(TOOLS, [package for name in kinds for package in SUBJECTS[name].packages])
    machine = described(VERSIONS)
    results = measure(kinds, asked.rounds, asked.seconds, folder)
    tables = (_ratios(cases, results), _figures(results))
    notes = _notes(asked, results)
    report.show(machine, tables, notes)
    report.save(asked.markdown, report.markdown(machine, tables, notes))
    report.save(asked.json, {"machine": machine, "results": _raw(results)})
    short = [case for case in cases if case.verdict(case.said_by(results)) == "short"]
    return command.SHORT if short else command.FINE


def measure(kinds: Mapping[str, Sequence[Kind]], rounds: int, seconds: float, folder: Path) -> Results:
    """Measure every subject once a round, each freshly started and alone."""
    results: dict[tuple[Kind, str], list[Measure]] = {
        (kind, name): [] for name, wanted in kinds.items() for kind in wanted
    }
    with Stage.set_up(folder) as stage:
        os.sched_setaffinity(0, {stage.cores.load})
        for number in range(1, rounds + 1):
            for name, wanted in kinds.items():
                report.progress(f"round {number} of {rounds}: {SUBJECTS[name].name}")
                with SUBJECTS[name].start(stage) as subject:
                    for kind in wanted:
                        results[kind, name].append(measured(kind, stage, subject, seconds))
    return results


def _ratios(cases: Sequence[Case], results: Results) -> report.Table:
    rows = []
    for case in cases:
        said = case.said_by(results)
        at_least, goal = report.limits(case.limit)
        measured = report.with_unit(said.middle, case.unit)
        verdict = case.verdict(said)
        by_time = case.by_core_time(results)
        shown = report.with_unit(by_time.middle, "×") if by_time else ""
        rows.append((case.title, at_least, goal, measured, report.spread(said), verdict, shown))
    columns = ("case", "at least", "goal", "measured", "rounds", "", "by core time")
    return report.Table("Beside the peers", columns, tuple(rows))


def _figures(results: Results) -> report.Table:
    rows = []
    for (kind, name), rounds in sorted(results.items(), key=lambda item: list(Kind).index(item[0][0])):
        said = Spread.of([one.value for one in rounds])
        shares = [one.busy for one in rounds if one.busy is not None]
        busy = f"{Spread.of(shares).middle:.0%}" if shares else ""
        figure = report.with_unit(said.middle, UNITS[kind])
        rows.append((kind.value, SUBJECTS[name].name, figure, report.spread(said), busy, _cost(kind, rounds)))
    columns = ("case", "who", "median of rounds", "rounds", "core used", "core time")
    return report.Table("Figures", columns, tuple(rows), left=2)


def _cost(kind: Kind, rounds: Sequence[Measure]) -> str:
    costs = [1e6 / one.core_rate for one in rounds if one.core_rate]
    each = "MB" if kind in (Kind.DOWNLOAD, Kind.UPLOAD) else "call"
    return f"{report.number(Spread.of(costs).middle)} µs/{each}" if costs else ""


def _notes(asked: argparse.Namespace, results: Results) -> list[str]:
    method = (
        f"Rounds in turns: {asked.rounds}, each of {asked.seconds:g} s (wrk: whole seconds, one to warm up). "
        "Each subject is freshly started and alone on one core; load and upstream are on another. "
        'Ratios are taken round by round, the middle one is shown; "by core time" compares processor time '
        "that was used, which other work on the machine changes least."
    )
    idle = {
        SUBJECTS[name].name
        for (kind, name), rounds in results.items()
        if kind is not Kind.LATENCY and any(one.busy is not None and one.busy < SATURATED for one in rounds)
    }
    if not idle:
        return [method]
    return [
        method,
        f"Did not use its core up in every round, so its figure is a lower bound: {', '.join(sorted(idle))}.",
    ]


def _raw(results: Results) -> dict[str, object]:
    return {f"{kind}/{name}": [asdict(one) for one in rounds] for (kind, name), rounds in results.items()}


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
