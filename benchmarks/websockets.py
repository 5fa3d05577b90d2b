"""`python -m benchmarks.websockets`: WebSockets through nginx and through the gateway, in one run.

What is measured has one core, load and upstream share another. Each round asks every subject in turn.
"""

import argparse
import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benchmarks import command, echo, gateway, nginx, report, usage
from benchmarks.figures import Limit, Spread, at_most, ratios, times
from benchmarks.machine import Cores, reserved
from benchmarks.processes import Process

VERSIONS = ("hypercorn", "granian", "uvloop")
# Bytes of a message -> who talks at once.
SIZES: Mapping[int, int] = {64 * 1024: 8, 32: 64}
LIMITS: Mapping[int, Limit] = {64 * 1024: times(0.5, 1.0)}
MEMORY_LIMIT = at_most(40, 20, "KB")
KILOBYTE = 1024
SPARE_CONNECTIONS = 100
IDLE_SECONDS = 1.0


@dataclass(frozen=True)
class Subject:
    """Something that WebSockets go through."""

    name: str
    process: Process
    url: str
    target: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Echoed:
    """What one subject did in one round: messages a second, and what each cost in core time."""

    subject: str
    size: int
    rate: float
    microseconds: float


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.websockets", "Compare WebSockets through the gateway with nginx.")
    parser.add_argument("--rounds", type=command.whole(1, 20), default=3, metavar="N")
    parser.add_argument("--seconds", type=command.between(0.2, 30), default=1.0, metavar="S")
    parser.add_argument("--idle", type=command.whole(0, 8000), default=1000, metavar="N")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    cores, machine = reserved(VERSIONS, ("nginx",), connections=asked.idle + SPARE_CONNECTIONS)
    with contextlib.ExitStack() as stack:
        subjects = list(_subjects(stack, folder, cores))
        rounds = [
            _echoed(subject, size, asked.seconds)
            for _ in range(asked.rounds)
            for size in SIZES
            for subject in subjects
        ]
        idle = {subject.name: _idle(subject, asked.idle) for subject in subjects if asked.idle}
    tables = [_rates(subjects, rounds)]
    if idle:
        tables.append(_memory(idle, asked.idle))
    notes = [
        f"{asked.rounds} rounds of {asked.seconds:g} s; nginx by itself moves 4 KB at a time, and 64 KB "
        "where it is told. Core time is that of the subject alone."
    ]
    report.show(machine, tables, notes)
    report.save(asked.markdown, report.markdown(machine, tables, notes))
    report.save(asked.json, {"machine": machine, "rounds": [asdict(one) for one in rounds], "idle": idle})
    verdicts = {row[-1] for table in tables for row in table.rows}
    return command.SHORT if "short" in verdicts else command.FINE


def _subjects(stack: contextlib.ExitStack, folder: Path, cores: Cores) -> Iterator[Subject]:
    upstream = stack.enter_context(echo.served(folder, cores.load))
    for buffer, name in (("4k", "nginx"), ("64k", "nginx, 64 KB")):
        process, url = stack.enter_context(nginx.sockets(folder, cores.measured, upstream, buffer=buffer))
        yield Subject(name, process, url, "/", {})
    mounts = json.dumps(
        [{"prefix": gateway.FILES, "upstream": upstream, "auth": "required", "websocket": True}]
    )
    for server in gateway.SERVERS:
        own = folder / server
        own.mkdir()
        # A sign-in ends the one before: each gateway has a database of its own.
        account = gateway.Account.made(own)
        served = stack.enter_context(
            gateway.served(server, account, folder, cores.measured, upstream, upstream, GATEWAY_MOUNTS=mounts)
        )
        yield Subject(f"gateway, {server}", served.process, served.url, gateway.FILES, dict(served.headers))


def _echoed(subject: Subject, size: int, seconds: float) -> Echoed:
    report.progress(f"{size} bytes through {subject.name}")
    before = usage.processor_seconds(subject.process)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(
            echo.rate(subject.url, subject.target, subject.headers, SIZES[size], size, seconds)
        )
    spent = usage.processor_seconds(subject.process) - before
    return Echoed(subject.name, size, found, spent / (found * (seconds + 0.3)) * 1e6)


def _idle(subject: Subject, count: int) -> float:
    """Return how many kilobytes an idle WebSocket makes resident."""
    report.progress(f"{count} idle through {subject.name}")

    async def hold() -> float:
        before = usage.resident_bytes(subject.process)
        talkers = await echo.talking(subject.url, subject.target, subject.headers, count, 32)
        await asyncio.sleep(IDLE_SECONDS)
        grown = usage.resident_bytes(subject.process) - before
        for talker in talkers:
            talker.leave()
        await asyncio.sleep(IDLE_SECONDS)
        return grown / count / KILOBYTE

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(hold())


def _rates(subjects: Sequence[Subject], rounds: Sequence[Echoed]) -> report.Table:
    rows = []
    for size in SIZES:
        base = [one.rate for one in rounds if one.subject == subjects[0].name and one.size == size]
        for subject in subjects:
            mine = [one for one in rounds if one.subject == subject.name and one.size == size]
            said = Spread.of(ratios([one.rate for one in mine], base))
            limit = LIMITS.get(size) if subject.name.startswith("gateway") else None
            rows.append(
                (
                    f"{size:,} bytes",
                    subject.name,
                    *report.limits(limit),
                    report.with_unit(said.middle, "×"),
                    report.spread(said),
                    report.number(Spread.of([one.rate for one in mine]).middle),
                    report.with_unit(Spread.of([one.microseconds for one in mine]).middle, "µs"),
                    limit.verdict(said.middle) if limit else "",
                )
            )
    columns = ("message", "through", "at least", "goal", "of nginx", "rounds", "a second", "core time", "")
    return report.Table("Messages there and back", columns, tuple(rows), left=2)


def _memory(idle: Mapping[str, float], count: int) -> report.Table:
    rows = []
    for name, kilobytes in idle.items():
        limit = MEMORY_LIMIT if name.startswith("gateway") else None
        verdict = limit.verdict(kilobytes) if limit else ""
        rows.append((name, *report.limits(limit), report.with_unit(kilobytes, "KB"), verdict))
    return report.Table(
        f"Resident memory of one of {count:,} idle WebSockets",
        ("through", "at most", "goal", "each", ""),
        tuple(rows),
    )


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
