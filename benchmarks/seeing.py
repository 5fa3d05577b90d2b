"""`python -m benchmarks.seeing`: what it costs to count and time every call, and whether the times are right.

The gateway runs twice on one core, GATEWAY_FIGURES on and off: wrk asks one and then the other, in turns.
Then calls to an upstream of known latency are timed outside and by Server-Timing.
"""

import argparse
import asyncio
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import command, gateway, report, upstream
from benchmarks.calls import Told, in_turn
from benchmarks.figures import Limit, Spread, at_most, percentile, ratios
from benchmarks.machine import described, require
from benchmarks.measures import Kind, Measure, measured
from benchmarks.stream import head
from benchmarks.subjects import Running, Stage

TOOLS = ("nginx", "wrk", "taskset", "setpriv")
VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "ddsketch", "prometheus_client")
SWITCHES: Mapping[str, str] = {"on": "true", "off": "false"}
# Short beside avatar calls, long beside a client that waits for its turn on the core.
UPSTREAM_SECONDS = 0.2
USERS = 4
LATENCY_SECONDS = 5.0
COST = at_most(5, 2, "%")
# Of the time that a meter outside sees.
DIFFERENCE = at_most(10, 5, "%")


@dataclass(frozen=True)
class Times:
    """Medians in ms over many calls: what a client saw, and what the answers told."""

    seen: float
    gateway: float
    wait: float
    upstream: float
    calls: int

    @property
    def difference(self) -> float:
        """How far the sum of what was told is from what was seen, in percent."""
        return abs(self.gateway + self.wait + self.upstream - self.seen) / self.seen * 100


@dataclass(frozen=True)
class Cost:
    """One server's rounds with and without."""

    server: str
    on: Sequence[Measure]
    off: Sequence[Measure]

    @property
    def by_rate(self) -> Spread:
        """How much less is answered with it, in percent."""
        return _less(ratios([one.value for one in self.on], [one.value for one in self.off]))

    @property
    def by_core_time(self) -> Spread:
        """How much less a second of processor time answers, which other work on the machine changes least."""
        return _less(
            ratios([one.core_rate or 0 for one in self.on], [one.core_rate or 0 for one in self.off])
        )

    @property
    def microseconds(self) -> float:
        """Processor time that a call costs more."""
        more = [
            1e6 / (a.core_rate or 1) - 1e6 / (b.core_rate or 1)
            for a, b in zip(self.on, self.off, strict=True)
        ]
        return Spread.of(more).middle


def _less(shares: Sequence[float]) -> Spread:
    return Spread.of([(1 - share) * 100 for share in shares])


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.seeing", "Measure what figures, Server-Timing and the log cost.")
    parser.add_argument("--rounds", type=command.whole(1, 50), default=7, metavar="N")
    parser.add_argument(
        "--seconds", type=command.between(0.1, 60), default=2.0, metavar="S", help="of each measurement"
    )
    parser.add_argument("--only", choices=gateway.SERVERS, default=None, help="one server")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    require(TOOLS)
    machine = described(VERSIONS)
    servers = [asked.only] if asked.only else list(gateway.SERVERS)
    costs: list[Cost] = []
    times: dict[str, Times] = {}
    with Stage.set_up(folder) as stage:
        os.sched_setaffinity(0, {stage.cores.load})
        for server in servers:
            costs.append(_cost(stage, server, asked.rounds, asked.seconds))
            times[server] = _times(stage, server)
    lines = [*_cost_lines(costs), *_time_lines(times)]
    columns = ("what", "at most", "goal", "measured", "rounds", "")
    rows = tuple(_row(*line) for line in lines)
    tables = (
        report.Table("What seeing costs, and whether it is right", columns, rows),
        _figures(costs, times),
    )
    notes = [
        f"Rounds: {asked.rounds}, each with figures and without in turns, {asked.seconds:g} s each, both "
        "gateways on one core, load and upstream on another. Cost is judged by processor time for a call."
    ]
    report.show(machine, tables, notes)
    report.save(asked.markdown, report.markdown(machine, tables, notes))
    raw = {
        "costs": [asdict(cost) for cost in costs],
        "times": {name: asdict(one) for name, one in times.items()},
    }
    report.save(asked.json, {"machine": machine, **raw})
    short = [limit for _, limit, said in lines if limit is not None and limit.verdict(said.middle) == "short"]
    return command.SHORT if short else command.FINE


@contextmanager
def _both(stage: Stage, server: str) -> Iterator[dict[str, Running]]:
    """Run one gateway with figures and one without."""
    with ExitStack() as stack:
        running = {}
        for name, value in SWITCHES.items():
            served = gateway.served(
                server,
                stage.account,
                stage.folder,
                stage.cores.measured,
                stage.files,
                stage.sink,
                GATEWAY_FIGURES=value,
            )
            it = stack.enter_context(served)
            running[name] = Running(it.process, it.url + gateway.FILES, it.url + gateway.SINK, it.headers)
        # A sign-in ends the one before it: all gateways of the account take the last one's.
        yield {
            name: Running(one.process, one.files, one.sink, running["off"].headers)
            for name, one in running.items()
        }


def _cost(stage: Stage, server: str, rounds: int, seconds: float) -> Cost:
    found: dict[str, list[Measure]] = {name: [] for name in SWITCHES}
    with _both(stage, server) as running:
        for number in range(1, rounds + 1):
            report.progress(f"{server}: round {number} of {rounds}")
            # Who goes first changes, as a machine that slows down amid a round would favour the same one.
            for name in list(SWITCHES)[:: 1 if number % 2 else -1]:
                found[name].append(measured(Kind.SMALL, stage, running[name], seconds))
    return Cost(server, found["on"], found["off"])


def _times(stage: Stage, server: str) -> Times:
    """Compare the answers' own times with those outside, at an upstream of known latency."""
    report.progress(f"{server}: times")
    with (
        upstream.served(stage.folder, stage.cores.load, UPSTREAM_SECONDS) as url,
        gateway.served(server, stage.account, stage.folder, stage.cores.measured, url, url) as served,
    ):
        parts = urlsplit(served.url)
        request = head("GET", f"{gateway.FILES}/slow", parts.netloc, served.headers)
        address = (parts.hostname or "", parts.port or 80)
        return timed(asyncio.run(in_turn(address, request, USERS, LATENCY_SECONDS)))


def timed(calls: Sequence[Told]) -> Times:
    """Return the medians. Raises ValueError when an answer does not tell its times."""
    told = [times_of(call.head) for call in calls]
    middle = {name: percentile([one[name] for one in told], 0.5) for name in ("gateway", "wait", "upstream")}
    return Times(seen=percentile([call.seconds for call in calls], 0.5) * 1e3, calls=len(calls), **middle)


def times_of(answer_head: bytes) -> dict[str, float]:
    """Return what Server-Timing says, in ms."""
    found = dict(re.findall(rb"(gateway|wait|upstream);dur=([\d.]+)", answer_head))
    if len(found) != 3:
        raise ValueError("the answer does not tell its times")
    return {name.decode(): float(value) for name, value in found.items()}


Line = tuple[str, Limit | None, Spread]


def _cost_lines(costs: Sequence[Cost]) -> Iterator[Line]:
    for cost in costs:
        yield f"{cost.server}: processor time of small calls", COST, cost.by_core_time
        yield f"{cost.server}: rate of small calls", None, cost.by_rate


def _time_lines(times: Mapping[str, Times]) -> Iterator[Line]:
    for server, one in times.items():
        yield f"{server}: Server-Timing beside a meter outside", DIFFERENCE, Spread.of([one.difference])


def _row(what: str, limit: Limit | None, said: Spread) -> tuple[str, ...]:
    at_least, goal = report.limits(limit)
    verdict = limit.verdict(said.middle) if limit else ""
    return (what, at_least, goal, report.with_unit(said.middle, "%"), report.spread(said), verdict)


def _figures(costs: Sequence[Cost], times: Mapping[str, Times]) -> report.Table:
    columns = (
        "server",
        "with",
        "without",
        "a call costs more",
        "seen outside",
        "gateway",
        "wait",
        "upstream",
    )
    rows = []
    for cost in costs:
        one = times[cost.server]
        rates = [Spread.of([m.value for m in measures]).middle for measures in (cost.on, cost.off)]
        rows.append(
            (
                cost.server,
                *(report.with_unit(rate, "req/s") for rate in rates),
                report.with_unit(cost.microseconds, "µs"),
                *(report.with_unit(value, "ms") for value in (one.seen, one.gateway, one.wait, one.upstream)),
            )
        )
    return report.Table("Figures", columns, tuple(rows))


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
