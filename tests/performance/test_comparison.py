"""Two result files side by side."""

import json
from pathlib import Path
from typing import Any

import pytest

from performance.comparison import BETTER, WITHIN, WORSE, compare
from performance.outcome import Unusable
from performance.run import main

MACHINE = {"processor": "A", "cpus": 2, "kernel": "Linux 6", "python": "3.11.7", "load": 1.0}


def step(wall: float, *, ends: tuple[float, float] | None = None, success: float = 100) -> dict[str, Any]:
    spread = {} if ends is None else {"spread": {"wall_seconds": list(ends)}}
    return {"users": 10, "wall_seconds": wall, "success_percent": success, **spread}


def result(folder: Path, name: str, *steps: dict[str, Any], **over: Any) -> Path:
    report = {"tool": "test_async_performance", "version": 1, "machine": MACHINE, "call": "POST /a"}
    path = folder / name
    path.write_text(json.dumps(report | {"complete": True, "steps": steps} | over))
    return path


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (step(3.0, ends=(2.9, 3.1)), step(3.05, ends=(3.0, 3.2)), WITHIN),
        (step(3.0, ends=(2.9, 3.1)), step(3.5, ends=(3.4, 3.6)), WORSE),
        (step(3.0, ends=(2.9, 3.1)), step(2.5, ends=(2.4, 2.6)), BETTER),
        (step(3.0, ends=(2.999, 3.001)), step(3.01, ends=(3.009, 3.011)), WITHIN),
        (step(3.0), step(3.1), WITHIN),
        (step(3.0), step(3.4), WORSE),
    ],
)
def test_what_lies_outside_both_spreads_is_better_or_worse(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], verdict: str
) -> None:
    first, second = result(tmp_path, "a.json", before), result(tmp_path, "b.json", after)
    comparison = compare(first, second, anyway=False)
    assert [one.verdict for one in comparison.differences if one.figure == "wall s"] == [verdict]
    assert main(["--compare", str(first), str(second)]) == (1 if verdict == WORSE else 0)


def test_one_more_failure_is_worse(tmp_path: Path) -> None:
    first = result(tmp_path, "a.json", step(3.0))
    second = result(tmp_path, "b.json", step(3.0, success=99.9))
    comparison = compare(first, second, anyway=False)
    assert [(one.figure, one.verdict) for one in comparison.differences if one.verdict != WITHIN] == [
        ("ok %", WORSE)
    ]


@pytest.mark.parametrize("member", ["processor", "cpus", "kernel", "python"])
def test_results_of_different_machines_are_refused_unless_anyway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], member: str
) -> None:
    first = result(tmp_path, "a.json", step(3.0))
    second = result(tmp_path, "b.json", step(3.0), machine=MACHINE | {member: "B"})
    assert main(["--compare", str(first), str(second)]) == 2
    assert f"{member} {MACHINE[member]} and B" in capsys.readouterr().err
    assert main(["--compare", str(first), str(second), "--anyway"]) == 0
    assert f"not alike: {member}" in capsys.readouterr().out


def test_different_calls_are_refused(tmp_path: Path) -> None:
    first = result(tmp_path, "a.json", step(3.0))
    second = result(tmp_path, "b.json", step(3.0), call="GET /b")
    with pytest.raises(Unusable, match="call POST /a and GET /b"):
        compare(first, second, anyway=False)


def test_what_limits_the_comparison_is_said(tmp_path: Path) -> None:
    first = result(tmp_path, "a.json", step(3.0), step(1.0) | {"users": 2}, generator_limited=True)
    second = result(tmp_path, "b.json", step(3.0), complete=False)
    notes = " ".join(compare(first, second, anyway=False).notes)
    for said in ("only in", "2 at once", "load generator was the limit", "stopped early", "5% is taken"):
        assert said in notes


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"tool": "test_async_performance", "version": 99}', "[" * 100_000]
)
def test_file_that_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    good, other = result(tmp_path, "a.json", step(3.0)), tmp_path / "b.json"
    other.write_text(content)
    with pytest.raises(Unusable, match="is no result of this script"):
        compare(good, other, anyway=True)


def test_damaged_result_is_refused(tmp_path: Path) -> None:
    good = result(tmp_path, "a.json", step(3.0))
    damaged = result(tmp_path, "b.json", step(3.0), steps=[{"users": "many"}])
    with pytest.raises(Unusable, match="damaged"):
        compare(good, damaged, anyway=False)


def test_files_without_a_common_step_are_refused(tmp_path: Path) -> None:
    first = result(tmp_path, "a.json", step(3.0))
    with pytest.raises(Unusable, match="no step in common"):
        compare(first, result(tmp_path, "b.json", step(3.0) | {"users": 5}), anyway=False)
