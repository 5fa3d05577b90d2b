"""`python -m benchmarks.seeing`: what it costs to count and time every call, and whether the times are right.

On one core the gateway runs with GATEWAY_FIGURES on, and twice with it off: each gets some hundred calls, in
turns, many times, and the processor time of neighbours is compared. The two that are alike tell the noise.
Then calls to an upstream of known latency are timed outside and by Server-Timing.
"""

import argparse
import asyncio
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import command, gateway, report, upstream, usage, viewers
from benchmarks.calls import Connection, Told, in_turn
from benchmarks.figures import Limit, Spread, at_most, differences, percentile, ratios
from benchmarks.machine import described, require
from benchmarks.processes import Failure, Process
from benchmarks.stream import head
from benchmarks.subjects import Running, Stage

TOOLS = ("nginx", "taskset", "setpriv")
VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "ddsketch", "prometheus_client")
OFF = {"GATEWAY_FIGURES": "false"}
SWITCHES: Mapping[str, Mapping[str, str]] = {"on": {"GATEWAY_FIGURES": "true"}, "off": OFF, "again": OFF}
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
class Round:
    """Seconds of processor time for a call in each turn: with figures, without, and without once more."""

    on: Sequence[float]
    off: Sequence[float]
    again: Sequence[float]

    @property
    def more(self) -> float:
        """How much more a call costs with figures, in percent: the middle of the turns."""
        return _percent(self.on, self.off)

    @property
    def noise(self) -> float:
        """How much more it costs one of two that are alike."""
        return _percent(self.again, self.off)

    @property
    def together(self) -> float:
        """The first of all turns together: what happens once a second is in few of them, and in no middle."""
        return (sum(self.on) / sum(self.off) - 1) * 100

    @property
    def noise_together(self) -> float:
        return (sum(self.again) / sum(self.off) - 1) * 100

    @property
    def microseconds(self) -> float:
        return Spread.of(differences(self.on, self.off)).middle * 1e6


@dataclass(frozen=True)
class Cost:
    """Rounds, each with processes of their own: by how their memory lies, alike ones differ by a percent."""

    server: str
    rounds: Sequence[Round]

    def over(self, what: Callable[[Round], float]) -> Spread:
        return Spread.of([what(one) for one in self.rounds])


def _percent(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return (Spread.of(ratios(ours, theirs)).middle - 1) * 100


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.seeing", "Measure what figures, Server-Timing and the log cost.")
    parser.add_argument("--rounds", type=command.whole(1, 100), default=5, metavar="N")
    parser.add_argument(
        "--turns", type=command.whole(3, 10_000), default=40, metavar="N", help="of each round"
    )
    parser.add_argument(
        "--calls", type=command.whole(10, 100_000), default=400, metavar="N", help="of each turn"
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
    costs: list[Cost] = []
    times: dict[str, Times] = {}
    with Stage.set_up(folder) as stage:
        os.sched_setaffinity(0, {stage.cores.load})
        for server in servers:
            costs.append(_cost(stage, server, asked))
            times[server] = _times(stage, server)
    lines = [*_cost_lines(costs), *_time_lines(times)]
    columns = ("what", "at most", "goal", "measured", "rounds", "")
    rows = tuple(_row(*line) for line in lines)
    tables = (
        report.Table("What seeing costs, and whether it is right", columns, rows),
        _figures(costs, times),
    )
    notes = [
        f"{asked.rounds} rounds with gateways started anew, {asked.turns} turns of {asked.calls} calls for "
        f"each, {USERS} callers; all three gateways on one core, load and upstream on another. Ratios are "
        "taken turn by turn, and of all turns of a round together: what happens once a second shows there. "
        "The middle round is shown."
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
def _alike(stage: Stage, server: str, everything: bool) -> Iterator[dict[str, Running]]:
    """Run one gateway with figures and two without."""
    with ExitStack() as stack:
        running = {}
        for name, switches in SWITCHES.items():
            watched = everything and name == "on"
            traces = {"GATEWAY_TRACES": f"file:{stage.folder / 'traces.jsonl'}"} if watched else {}
            served = gateway.served(
                server,
                stage.account,
                stage.folder,
                stage.cores.measured,
                stage.files,
                stage.sink,
                **switches,
                **traces,
            )
            it = stack.enter_context(served)
            if watched:
                stack.enter_context(viewers.watching(it.url, 2))
            running[name] = Running(it.process, it.url + gateway.FILES, it.url + gateway.SINK, it.headers)
        # A sign-in ends the one before it: all gateways of the account take the last one's.
        yield {
            name: Running(one.process, one.files, one.sink, running["again"].headers)
            for name, one in running.items()
        }


def _cost(stage: Stage, server: str, asked: argparse.Namespace) -> Cost:
    rounds = []
    for number in range(asked.rounds):
        report.progress(f"{server}: round {number + 1} of {asked.rounds}, {asked.turns} turns")
        with _alike(stage, server, asked.everything) as running:
            rounds.append(Round(**asyncio.run(_in_turns(running, asked.turns, asked.calls))))
    return Cost(server, rounds)


async def _in_turns(running: Mapping[str, Running], turns: int, calls: int) -> dict[str, list[float]]:
    """Return what a call costs each of them, turn by turn."""
    found: dict[str, list[float]] = {name: [] for name in running}
    with ExitStack() as stack:
        callers = {name: await Callers.ready(one) for name, one in running.items()}
        for caller in callers.values():
            stack.callback(caller.close)
            await caller.cost(calls)  # what is made once is made now
        for turn in range(turns):
            # Each is first as often as the others.
            order = [*running][turn % 3 :] + [*running][: turn % 3]
            for name in order:
                found[name].append(await callers[name].cost(calls))
    return found


class Callers:
    """Kept connections to one gateway, each of which sends the next call when it has the answer."""

    def __init__(self, process: Process, connections: list[Connection], request: bytes) -> None:
        self._process = process
        self._connections = connections
        self._request = request

    @classmethod
    async def ready(cls, running: Running) -> "Callers":
        assert running.process is not None
        parts = urlsplit(running.files)
        request = head("GET", f"{parts.path}/small", parts.netloc, running.headers)
        address = (parts.hostname or "", parts.port or 80)
        return cls(running.process, [await Connection.opened(address) for _ in range(USERS)], request)

    async def cost(self, calls: int) -> float:
        """Make so many calls; return the gateway's processor time for one. Raises Failure."""
        before = usage.exact_processor_seconds(self._process)
        await asyncio.gather(*(self._some(one, calls // USERS) for one in self._connections))
        return (usage.exact_processor_seconds(self._process) - before) / (calls // USERS * USERS)

    async def _some(self, connection: Connection, calls: int) -> None:
        for _ in range(calls):
            if await connection.send(self._request) != 200:
                raise Failure("a call failed")

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


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
        yield f"{cost.server}: processor time of small calls, more", COST, cost.over(lambda one: one.more)
        yield f"{cost.server}: the same of two that are alike", None, cost.over(lambda one: one.noise)
        together, noise = cost.over(lambda one: one.together), cost.over(lambda one: one.noise_together)
        yield f"{cost.server}: all turns together, more", COST, together
        yield f"{cost.server}: the same of two that are alike", None, noise


def _time_lines(times: Mapping[str, Times]) -> Iterator[Line]:
    for server, one in times.items():
        yield f"{server}: Server-Timing beside a meter outside", DIFFERENCE, Spread.of([one.difference])


def _row(what: str, limit: Limit | None, said: Spread) -> tuple[str, ...]:
    at_least, goal = report.limits(limit)
    verdict = limit.verdict(said.middle) if limit else ""
    return (what, at_least, goal, report.with_unit(said.middle, "%"), report.spread(said), verdict)


def _figures(costs: Sequence[Cost], times: Mapping[str, Times]) -> report.Table:
    columns = ("server", "with", "without", "more", "seen outside", "gateway", "wait", "upstream")
    rows = []
    for cost in costs:
        one = times[cost.server]
        spent = [
            cost.over(lambda one: Spread.of(one.on).middle * 1e6).middle,
            cost.over(lambda one: Spread.of(one.off).middle * 1e6).middle,
            cost.over(lambda one: one.microseconds).middle,
        ]
        rows.append(
            (
                cost.server,
                *(report.with_unit(value, "µs/call") for value in spent),
                *(report.with_unit(value, "ms") for value in (one.seen, one.gateway, one.wait, one.upstream)),
            )
        )
    return report.Table("Figures", columns, tuple(rows))


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
