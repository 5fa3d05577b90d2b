"""The JSON report: every figure, for programs and for `--compare`."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from performance.answers import Failure
from performance.claims import CONTRADICTIONS, claims
from performance.columns import ACT_COLUMNS, COLUMNS, Column, Measured, parts_of
from performance.conclusions import generator_limited, machine_limits
from performance.effort import Effort
from performance.machine import described
from performance.record import Crowd, Record
from performance.settings import Settings
from performance.steps import Rung, kinds
from performance.tally import Tally

TOOL, VERSION = "test_async_performance", 1


def as_json(settings: Settings, record: Record) -> dict[str, Any]:
    failed, load = len(record.serial_failures), settings.load
    report = {
        "tool": TOOL,
        "version": VERSION,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "base_url": settings.target.base_url,
        "call": settings.title,
        "limit_seconds": settings.limit_seconds,
        "cold": load.cold,
        "rounds": load.rounds,
        "complete": record.complete,
        "machine": described(),
        "generator_limited": generator_limited(record),
        "notes": [*record.notes, *machine_limits(record)],
    }
    if settings.scenario is None:
        serial = {"calls": len(record.serial) + failed, "failed": failed, "mean_seconds": record.serial_mean}
        report |= {"serial": serial, "steps": [_step(rung) for rung in record.steps]}
    else:
        report |= {
            "scenario": {
                "name": settings.scenario.name,
                "duration_seconds": load.duration,
                "calls": load.calls,
                "ramp_up_seconds": load.ramp_up,
                "warm_up_seconds": load.warm_up,
                "seed": load.seed,
                "own_accounts": bool(settings.target.accounts),
            },
            "crowds": [_crowd(crowd) for crowd in record.crowds],
        }
    if settings.claims_seconds is not None:
        report["claims"] = [asdict(claim) for claim in claims(record)]
        report["contradictions"] = list(CONTRADICTIONS)
    return report


def _figures(columns: Sequence[Column[Measured]], rounds: Sequence[Measured]) -> dict[str, Any]:
    """Medians of the rounds, and their ends where there are several."""
    figures: dict[str, Any] = {}
    spreads: dict[str, Any] = {}
    for column in columns:
        spread = column.spread(rounds)
        figures[column.key] = None if spread is None else spread.middle
        if spread is not None and column.key != "users":
            spreads[column.key] = [spread.lowest, spread.highest]
    return figures | ({"spread": spreads} if len(rounds) > 1 else {})


def _step(rung: Rung) -> dict[str, Any]:
    return {
        **_figures(COLUMNS, rung.rounds),
        "serial_extrapolated": any(step.extrapolated for step in rung.rounds),
        "rounds": len(rung.rounds),
        "succeeded": rung.succeeded,
        "failed": len(rung.failures),
        "bytes": rung.size,
        "failures": _failures(kinds(rung.failures)),
        "effort": _efforts(rung.efforts),
    }


def _crowd(crowd: Crowd) -> dict[str, Any]:
    efforts = [tally.effort for tally in crowd.rounds if tally.effort is not None]
    return {
        "users": crowd.users,
        "rounds": len(crowd.rounds),
        "seconds": [tally.seconds for tally in crowd.rounds],
        "unfinished": sum(tally.unfinished for tally in crowd.rounds),
        "all": _act("all", crowd.rounds),
        "acts": [_act(name, crowd.rounds) for name in crowd.names],
        "over_time": [_over_time(tally) for tally in crowd.rounds],
        "effort": _efforts(efforts),
    }


def _act(name: str, tallies: Sequence[Tally]) -> dict[str, Any]:
    parts = parts_of(name, tallies)
    counts = [count for count, _ in parts]
    failures = [kind for count in counts for kind in count.kinds]
    return {
        "name": name,
        **_figures(ACT_COLUMNS, parts),
        "succeeded": sum(count.answered for count in counts),
        "failed": sum(count.failed for count in counts),
        "limited": sum(count.limited for count in counts),
        "skipped": sum(count.skipped for count in counts),
        "bytes": sum(count.size for count in counts),
        "exact": all(count.durations.exact for count in counts),
        "failures": [] if name == "all" else _failures(failures),
    }


def _over_time(tally: Tally) -> dict[str, Any]:
    return {
        "width_seconds": tally.width,
        "users": [moment.users for moment in tally.moments],
        "answered": [moment.answered for moment in tally.moments],
        "failed": [moment.failed for moment in tally.moments],
        "p50_seconds": [moment.durations.at(50) for moment in tally.moments],
        "p95_seconds": [moment.durations.at(95) for moment in tally.moments],
    }


def _failures(found: Sequence[tuple[Failure, int]]) -> list[dict[str, Any]]:
    return [{**asdict(failure), "count": count} for failure, count in found]


def _efforts(efforts: Sequence[Effort]) -> list[dict[str, Any]]:
    return [asdict(effort) for effort in efforts]
