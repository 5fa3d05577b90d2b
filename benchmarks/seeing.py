"""`python -m benchmarks.seeing`: what it costs to count and time every call, and whether the times are right.

A gateway gets some hundred calls that it notes and some hundred that it does not, in turns, many times, and
the processor time of neighbours is compared: in one process, as two that are alike differ by percents. What
is done once a second, whether it is called or not, is measured by itself. Both together are the cost. Then
calls to an upstream of known latency are timed outside and by Server-Timing.
"""

import argparse
import asyncio
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import command, cost, gateway, report, upstream
from benchmarks.calls import Told, in_turn
from benchmarks.figures import Limit, Spread, at_most, percentile
from benchmarks.machine import described, require
from benchmarks.stream import head
from benchmarks.subjects import Stage

TOOLS = ("nginx", "taskset", "setpriv")
VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "ddsketch", "prometheus_client")
# Short beside avatar calls, long beside a client that waits for its turn on the core.
UPSTREAM_SECONDS = 0.2
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


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.seeing", "Measure what figures, Server-Timing and the log cost.")
    parser.add_argument("--rounds", type=command.whole(1, 100), default=4, metavar="N")
    parser.add_argument(
        "--turns", type=command.whole(3, 10_000), default=500, metavar="N", help="of each round"
    )
    parser.add_argument(
        "--calls", type=command.whole(10, 100_000), default=40, metavar="N", help="of each turn"
    )
    parser.add_argument(
        "--everything",
        action="store_true",
        help="with traces into a file and two who look at the dashboard",
    )
    parser.add_argument("--only", choices=gateway.SERVERS, default=None, help="one server")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    require(TOOLS)
    machine = described(VERSIONS)
    servers = [asked.only] if asked.only else list(gateway.SERVERS)
    costs: list[cost.Cost] = []
    times: dict[str, Times] = {}
    with Stage.set_up(folder) as stage:
        os.sched_setaffinity(0, {stage.cores.load})
        for server in servers:
            costs.append(
                cost.measured(
                    stage,
                    server,
                    rounds=asked.rounds,
                    turns=asked.turns,
                    calls=asked.calls,
                    everything=asked.everything,
                )
            )
            times[server] = _times(stage, server)
    lines = [*_cost_lines(costs), *_time_lines(times)]
    columns = ("what", "at most", "goal", "measured", "rounds", "")
    rows = tuple(_row(*line) for line in lines)
    tables = (
        report.Table("What seeing costs, and whether it is right", columns, rows),
        _figures(costs, times),
    )
    notes = [
        f"{asked.rounds} rounds with gateways started anew, {asked.turns} turns of {asked.calls} calls noted "
        f"and twice as many not, {cost.USERS} callers; the gateway on one core, load and upstream on the "
        f"other. Each second: at {cost.RATE:g} calls, beside a gateway with GATEWAY_FIGURES=false. The "
        "middle round is shown."
    ]
    report.show(machine, tables, notes)
    report.save(asked.markdown, report.markdown(machine, tables, notes))
    raw = {
        "costs": [asdict(one) for one in costs],
        "times": {name: asdict(one) for name, one in times.items()},
    }
    report.save(asked.json, {"machine": machine, **raw})
    short = [limit for _, limit, said in lines if limit is not None and limit.verdict(said.middle) == "short"]
    return command.SHORT if short else command.FINE


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
        return timed(asyncio.run(in_turn(address, request, cost.USERS, LATENCY_SECONDS)))


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


def _cost_lines(costs: Sequence[cost.Cost]) -> Iterator[Line]:
    for one in costs:
        yield f"{one.server}: processor time of small calls, more", None, one.over(lambda it: it.call)
        yield f"{one.server}: the same of turns that are alike", None, one.over(lambda it: it.noise)
        yield f"{one.server}: of a core, each second", None, one.over(lambda it: it.second)
        yield f"{one.server}: together", COST, one.over(lambda it: it.whole)


def _time_lines(times: Mapping[str, Times]) -> Iterator[Line]:
    for server, one in times.items():
        yield f"{server}: Server-Timing beside a meter outside", DIFFERENCE, Spread.of([one.difference])


def _row(what: str, limit: Limit | None, said: Spread) -> tuple[str, ...]:
    at_least, goal = report.limits(limit)
    verdict = limit.verdict(said.middle) if limit else ""
    return (what, at_least, goal, report.with_unit(said.middle, "%"), report.spread(said), verdict)


def _figures(costs: Sequence[cost.Cost], times: Mapping[str, Times]) -> report.Table:
    columns = ("server", "noted", "not noted", "more", "seen outside", "gateway", "wait", "upstream")
    rows = []
    for of_server in costs:
        one = times[of_server.server]
        spent = (
            of_server.over(lambda it: Spread.of(it.on).middle * 1e6),
            of_server.over(lambda it: Spread.of(it.off).middle * 1e6),
            of_server.over(lambda it: it.microseconds),
        )
        rows.append(
            (
                of_server.server,
                *(report.with_unit(value.middle, "µs/call") for value in spent),
                *(report.with_unit(value, "ms") for value in (one.seen, one.gateway, one.wait, one.upstream)),
            )
        )
    return report.Table("Figures", columns, tuple(rows))


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
