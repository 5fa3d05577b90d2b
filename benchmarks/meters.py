"""`python -m benchmarks.meters`: does `/stats` say what wrk and the load script saw?

An upstream answers after 300 to 500 ms, evenly spread, so that what clients and gateway wait for a turn on
the processor is small beside it. Each meter has a gateway of its own, whose figures then hold its calls.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import command, gateway, report, upstream, wrk
from benchmarks.figures import Spread, at_most
from benchmarks.machine import Cores, reserved
from benchmarks.processes import ROOT, Failure, environment, exchange

VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "ddsketch")
SECONDS, SPREAD_SECONDS = 0.4, 0.1
USERS = 16
PATH = f"{gateway.FILES}/slow"
PERCENTS = ("p50", "p95", "p99")
COUNTED_SECONDS = 10.0
GRACE_SECONDS = 60.0
# Of what the meter saw. /stats tells percentiles to 1 %.
DIFFERENCE = at_most(5, 2, "%")
MILLISECONDS = 1e3


@dataclass(frozen=True)
class Seen:
    """What a meter says of its calls: how many were answered, and their percentiles in ms."""

    calls: int
    milliseconds: Mapping[str, float]


@dataclass(frozen=True)
class Compared:
    """A meter beside `/stats`, in several rounds: calls answered with 2xx, percentiles since the start."""

    server: str
    meter: str
    rounds: Sequence[tuple[Seen, Seen]]

    def apart(self, percent: str) -> Spread:
        """Return how far what `/stats` told is from what was seen, in percent of it."""
        pairs = [(seen.milliseconds[percent], told.milliseconds[percent]) for seen, told in self.rounds]
        return Spread.of([abs(told - seen) / seen * 100 for seen, told in pairs])

    @property
    def percents(self) -> tuple[str, ...]:
        """Those that both know."""
        return tuple(self.rounds[0][0].milliseconds)

    @property
    def counts_match(self) -> bool:
        """wrk leaves its last calls under way: what was answered and not read counts here only."""
        spare = USERS if self.meter == "wrk" else 0
        return all(0 <= told.calls - seen.calls <= spare for seen, told in self.rounds)

    @property
    def short(self) -> bool:
        verdicts = [DIFFERENCE.verdict(self.apart(percent).middle) for percent in self.percents]
        return not self.counts_match or "short" in verdicts


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.meters", "Compare /stats with wrk and with the load script.")
    parser.add_argument("--rounds", type=command.whole(1, 100), default=3, metavar="N")
    parser.add_argument("--seconds", type=command.between(2, 300), default=10.0, metavar="S", help="of each")
    parser.add_argument("--workers", type=command.whole(1, 16), default=1, metavar="N")
    parser.add_argument("--server", choices=gateway.SERVERS, default=None, help="one server")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    cores, machine = reserved(VERSIONS, ("wrk",))
    account = gateway.Account.made(folder)
    meters: dict[str, Meter] = {"wrk": _by_wrk, "script": _by_script}
    servers = [asked.server] if asked.server else gateway.SERVERS
    compared = []
    with upstream.served(folder, cores.load, SECONDS, SPREAD_SECONDS) as url:
        for server, name in product(servers, meters):
            rounds = []
            for _ in range(asked.rounds):
                report.progress(f"{server}: {name}")
                with _gateway(server, account, folder, cores, url, asked.workers) as served:
                    seen = meters[name](served, folder, cores.load, asked.seconds)
                    rounds.append((seen, _told(served.url, seen)))
            compared.append(Compared(server, name, rounds))
    table = _table(compared)
    notes = [
        f"{asked.rounds} round(s) of {asked.seconds:g} s, {USERS} callers, an upstream of "
        f"{SECONDS * 1e3:g} ± {SPREAD_SECONDS * 1e3:g} ms, {asked.workers} worker(s). The middle round is "
        "judged. Calls answered have to be the same in all; of wrk's, "
        f"up to {USERS} may be under way when it ends."
    ]
    report.show(machine, [table], notes)
    report.save(asked.markdown, report.markdown(machine, [table], notes))
    report.save(asked.json, {"machine": machine, "compared": [asdict(one) for one in compared]})
    return command.SHORT if any(one.short for one in compared) else command.FINE


@contextmanager
def _gateway(
    server: str, account: gateway.Account, folder: Path, cores: Cores, url: str, workers: int
) -> Iterator[gateway.Served]:
    core = cores.measured if workers == 1 else None
    with gateway.served(server, account, folder, core, url, url, WORKERS=str(workers)) as served:
        yield served


Meter = Callable[[gateway.Served, Path, int, float], Seen]


def _by_wrk(served: gateway.Served, _: Path, core: int, seconds: float) -> Seen:
    load = wrk.load(served.url + PATH, served.headers, seconds, core, USERS)
    times = {"p50": load.median_seconds, "p99": load.p99_seconds}
    return Seen(load.calls, {name: value * MILLISECONDS for name, value in times.items()})


def _by_script(served: gateway.Served, folder: Path, core: int, seconds: float) -> Seen:
    """Run the script as a person does. Raises Failure."""
    result = folder / "script.json"
    argv = ["--base-url", served.url, "--path", PATH, f"--users={USERS}", f"--duration={seconds}", "--quiet"]
    ran = subprocess.run(
        [sys.executable, str(ROOT / "test_async_performance.py"), *argv, "--json", str(result)],
        env=environment(LOADTEST_TOKEN=served.headers["Authorization"].removeprefix("Bearer ")),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds + GRACE_SECONDS,
        check=False,
    )
    if ran.returncode:
        raise Failure(f"the script ended with {ran.returncode}: {ran.stderr.strip() or ran.stdout.strip()}")
    crowd = json.loads(result.read_text("utf-8"))["crowds"][0]["all"]
    return Seen(crowd["succeeded"], {name: crowd[f"{name}_seconds"] * MILLISECONDS for name in PERCENTS})


def _told(url: str, seen: Seen) -> Seen:
    """Read `/stats` once it holds as many calls: they count after they were answered. Raises Failure."""
    until = time.monotonic() + COUNTED_SECONDS
    while True:
        status, content = exchange("GET", f"{url}/stats")
        if status != 200:
            raise Failure(f"/stats is answered with {status}")
        stats = json.loads(content)
        calls = _answered(stats)
        if calls >= seen.calls or time.monotonic() > until:
            return Seen(calls, {name: stats["duration_ms"]["since_start"][name] for name in PERCENTS})
        time.sleep(0.1)


def _answered(stats: Mapping[str, Any]) -> int:
    return sum(
        int(one["count"])
        for one in stats["routes"]
        if one["route"].startswith(gateway.FILES) and one["answers"] == "2xx"
    )


def _table(compared: Sequence[Compared]) -> report.Table:
    columns = ("server", "meter", "what", "seen", "/stats", "apart", "rounds", "at most", "goal", "")
    rows = tuple(row for one in compared for row in _rows(one))
    return report.Table("The meter outside and /stats", columns, rows, left=3)


def _rows(one: Compared) -> Iterator[tuple[str, ...]]:
    sides = [*zip(*one.rounds, strict=True)]
    for percent in one.percents:
        values = [Spread.of([seen.milliseconds[percent] for seen in side]) for side in sides]
        apart = one.apart(percent)
        yield (
            one.server,
            one.meter,
            percent,
            *(f"{value.middle:.1f} ms" for value in values),
            report.with_unit(apart.middle, "%"),
            report.spread(apart),
            *report.limits(DIFFERENCE),
            DIFFERENCE.verdict(apart.middle),
        )
    counts = (f"{sum(seen.calls for seen in side):,}" for side in sides)
    yield (one.server, one.meter, "calls", *counts, "", "", "", "", "ok" if one.counts_match else "short")


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
