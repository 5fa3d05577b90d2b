"""Two result files side by side: what the second has better or worse than the first."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from performance.machine import FINGERPRINT
from performance.outcome import Unusable
from performance.report import TOOL, VERSION

MOST_FILE_BYTES = 64 << 20
LEAST_CHANGE = 0.01  # what percentiles out of many calls are exact to
NOISE = 0.05  # taken for the spread where a file has a single round
# Key -> heading, and whether more is better.
FIGURES: Mapping[str, tuple[str, bool]] = {
    "wall_seconds": ("wall s", False),
    "p50_seconds": ("p50 s", False),
    "p95_seconds": ("p95 s", False),
    "p99_seconds": ("p99 s", False),
    "throughput_per_second": ("req/s", True),
    "success_percent": ("ok %", True),
}
BETTER, WORSE, WITHIN = "better", "worse", "within the spread"


@dataclass(frozen=True)
class Difference:
    """One figure of one step; `change` is relative to the first file."""

    step: str
    figure: str
    before: float
    after: float
    change: float
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """All of them, and what to bear in mind."""

    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def worse(self) -> bool:
        return any(one.verdict == WORSE for one in self.differences)


def compare(first: Path, second: Path, *, anyway: bool) -> Comparison:
    """Raises Unusable for files that are no results, or not comparable and not forced."""
    before, after = _read(first), _read(second)
    unlike = _unlike(before, after)
    if unlike and not anyway:
        reasons = "; ".join(unlike)
        raise Unusable(f"{first} and {second} cannot be compared: {reasons} (--anyway does it all the same)")
    differences: list[Difference] = []
    steps, others = _steps(before), _steps(after)
    for name in steps:
        if name in others:
            differences += _differences(name, steps[name], others[name])
    if not differences:
        raise Unusable(f"{first} and {second} have no step in common")
    notes = [f"not alike: {one}" for one in unlike]
    notes += [f"only in {first}: {name}" for name in steps if name not in others]
    notes += [f"only in {second}: {name}" for name in others if name not in steps]
    if any("spread" not in step for step in (*steps.values(), *others.values())):
        notes.append(
            f"A file with one round tells no spread: {NOISE:.0%} is taken for it. --rounds 5 measures it."
        )
    for path, report in ((first, before), (second, after)):
        if report.get("generator_limited"):
            notes.append(f"In {path} the load generator was the limit, not the gateway.")
        if not report.get("complete", True):
            notes.append(f"{path} was stopped early.")
    return Comparison(tuple(differences), tuple(notes))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise Unusable(f"cannot read {path}: {error.strerror}") from error
    try:
        report = json.loads(text) if len(text) <= MOST_FILE_BYTES else None
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict) or (report.get("tool"), report.get("version")) != (TOOL, VERSION):
        raise Unusable(f"{path} is no result of this script")
    return report


def _unlike(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    machines = [report.get("machine") or {} for report in (before, after)]
    pairs = [(name, *(machine.get(name) for machine in machines)) for name in FINGERPRINT]
    pairs.append(("call", before.get("call"), after.get("call")))
    if "scenario" in before and "scenario" in after:
        pairs += [
            (name, before["scenario"].get(name), after["scenario"].get(name)) for name in ("own_accounts",)
        ]
    return [f"{name} {_said(one)} and {_said(other)}" for name, one, other in pairs if one != other]


def _said(value: Any) -> str:
    return "not told" if value is None else str(value)


def _steps(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Name to figures. Raises Unusable for a damaged report."""
    try:
        steps = {f"{step['users']:,} at once": step for step in report.get("steps", ())}
        for crowd in report.get("crowds", ()):
            for act in (*crowd["acts"], crowd["all"]):
                steps[f"{crowd['users']:,} users, {act['name']}"] = act
    except (TypeError, KeyError, ValueError) as error:
        raise Unusable("one of the files is damaged") from error
    return steps


def _differences(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    found = []
    for key, (heading, more_is_better) in FIGURES.items():
        one, other = before.get(key), after.get(key)
        if not isinstance(one, int | float) or not isinstance(other, int | float):
            continue
        change = (other - one) / one if one else (0.0 if other == one else float("inf"))
        if key == "success_percent" and one == other:
            continue
        verdict, small = WITHIN, abs(change) < LEAST_CHANGE and key != "success_percent"
        if not small and not _overlap(_range(before, key, one), _range(after, key, other)):
            verdict = BETTER if (other > one) == more_is_better else WORSE
        found.append(Difference(name, heading, one, other, change, verdict))
    return found


def _range(step: Mapping[str, Any], key: str, middle: float) -> tuple[float, float]:
    spread = step.get("spread")
    if isinstance(spread, dict) and isinstance(spread.get(key), list):
        low, high = spread[key]
        return low, high
    # What fails is counted, not measured: one failure more is one too many.
    noise = 0.0 if key == "success_percent" else NOISE / 2
    return middle * (1 - noise), middle * (1 + noise)


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]
