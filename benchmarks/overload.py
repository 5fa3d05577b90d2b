"""`python -m benchmarks.overload`: what becomes of a full upstream, and of everybody else meanwhile.

An upstream of known capacity behind a mount with `max_calls`: first as many callers as it has places, then
four times the rate that it can serve, then the same while it is ten times slower. Then health and another
mount are called, too.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from benchmarks import command, gateway, report
from benchmarks.calls import Told, in_turn, offered
from benchmarks.figures import Limit, at_most, percentile
from benchmarks.machine import Cores, reserved
from benchmarks.service import Service
from benchmarks.stream import head

VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "httptools")
# 20 calls a second: four times as many are still few for the gateway itself, also on a busy machine.
PLACES = 8
CALL_SECONDS = 0.4
OVERLOAD = 4
SLOWER = 10
# What the others ask meanwhile, calls a second each.
BESIDE_RATE = 20.0
FULL, OTHER = "/full", "/other"
HEALTH = "/api/health"
MILLISECONDS = 1000

GOODPUT = Limit(0.9, 1.0, "×", more_is_better=True)
LATENCY = at_most(2, 1.6, "×")
SHED = at_most(50, 20, "ms")
TOLD = Limit(1, None, "of the refused", more_is_better=True)
IN_FLIGHT = at_most(PLACES, None, "calls")
BESIDE = at_most(100, 50, "ms")


@dataclass(frozen=True)
class Loaded:
    """What one gateway made of it: rates in calls a second, times in milliseconds."""

    server: str
    peak: float
    peak_p99: float
    goodput: float
    p99: float
    refused: int
    shed_p99: float
    told_when: float
    most_in_flight: int
    health_p99: float
    other_p99: float

    def lines(self) -> list[tuple[str, float, Limit]]:
        return [
            (f"goodput at {OVERLOAD}× the capacity, of the peak", self.goodput / self.peak, GOODPUT),
            ("p99 of accepted calls, of that at capacity", self.p99 / self.peak_p99, LATENCY),
            ("p99 of refusing", self.shed_p99, SHED),
            ("share with 503 and Retry-After", self.told_when, TOLD),
            (f"calls at the upstream, {SLOWER}× slower", self.most_in_flight, IN_FLIGHT),
            ("p99 of health meanwhile", self.health_p99, BESIDE),
            ("p99 of another mount meanwhile", self.other_p99, BESIDE),
        ]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser(
        "benchmarks.overload", "Measure what a full upstream does to its callers and others."
    )
    parser.add_argument(
        "--seconds", type=command.between(1, 600), default=4.0, metavar="S", help="each of three phases"
    )
    parser.add_argument("--server", choices=gateway.SERVERS, help="this one alone")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    cores, machine = reserved(VERSIONS)
    account = gateway.Account.made(folder)
    found = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for server in [asked.server] if asked.server else gateway.SERVERS:
            report.progress(f"gateway on {server}, three phases of {asked.seconds:g} s")
            found.append(runner.run(measured(server, account, folder, cores, asked.seconds)))
    table = _table(found)
    notes = [
        f"The upstream works on {PLACES} calls of {CALL_SECONDS * MILLISECONDS:g} ms at a time; at the peak "
        "as many callers take turns. Peak: "
        + ", ".join(f"{one.peak:.0f}/s on {one.server}" for one in found)
        + "."
    ]
    report.show(machine, [table], notes)
    report.save(asked.markdown, report.markdown(machine, [table], notes))
    report.save(asked.json, {"machine": machine, "overload": [asdict(one) for one in found]})
    return command.SHORT if any(row[-1] == "short" for row in table.rows) else command.FINE


async def measured(
    server: str, account: gateway.Account, folder: Path, cores: Cores, seconds: float
) -> Loaded:
    """Start a gateway and load it. Raises Failure when a call gets no answer."""
    full, other = Service(PLACES, CALL_SECONDS), Service()
    await full.start()
    await other.start()
    mounts = [mount(FULL, full.url, max_calls=PLACES), mount(OTHER, other.url)]
    settings = {"GATEWAY_MOUNTS": json.dumps(mounts)}
    with gateway.served(server, account, folder, cores.measured, full.url, full.url, **settings) as served:
        parts = urlsplit(served.url)
        address = (parts.hostname or "", parts.port or 80)
        request = head("GET", f"{FULL}/work", parts.netloc, {})
        await in_turn(address, request, PLACES, CALL_SECONDS)
        peak = await in_turn(address, request, PLACES, seconds)
        rate = len(peak) / seconds
        rush = await offered(address, request, OVERLOAD * rate, seconds)
        await asyncio.sleep(0.5)
        full.seconds, full.most = SLOWER * CALL_SECONDS, 0
        beside = [
            offered(address, head("GET", path, parts.netloc, {}), BESIDE_RATE, seconds)
            for path in (HEALTH, f"{OTHER}/x")
        ]
        _, health, elsewhere = await asyncio.gather(
            offered(address, request, OVERLOAD * rate, seconds), *beside
        )
    await full.stop()
    await other.stop()
    return loaded(server, seconds, peak, rush, full.most, health, elsewhere)


def mount(prefix: str, upstream: str, **more: object) -> dict[str, object]:
    return {"prefix": prefix, "upstream": upstream, "auth": "none", "methods": ["GET"], **more}


def loaded(
    server: str,
    seconds: float,
    peak: Sequence[Told],
    rush: Sequence[Told],
    most: int,
    health: Sequence[Told],
    other: Sequence[Told],
) -> Loaded:
    good = [one for one in rush if one.status == 200]
    refused = [one for one in rush if one.status != 200]
    polite = [one for one in refused if one.status == 503 and b"\r\nretry-after: " in one.head.lower()]
    return Loaded(
        server,
        peak=len(peak) / seconds,
        peak_p99=_p99(peak),
        goodput=len(good) / _span(good),
        p99=_p99(good),
        refused=len(refused),
        shed_p99=_p99(refused),
        told_when=len(polite) / len(refused) if refused else 0.0,
        most_in_flight=most,
        health_p99=_p99([one for one in health if one.status == 200]),
        other_p99=_p99([one for one in other if one.status == 200]),
    )


def _span(told: Sequence[Told]) -> float:
    """Return the seconds from the first sending to the last answer."""
    return max(one.sent + one.seconds for one in told) - min(one.sent for one in told) if told else 1.0


def _p99(told: Sequence[Told]) -> float:
    return percentile([one.seconds for one in told], 0.99) * MILLISECONDS if told else float("inf")


def _table(found: Sequence[Loaded]) -> report.Table:
    rows = [
        (one.server, what, *report.limits(limit), report.with_unit(value, limit.unit), limit.verdict(value))
        for one in found
        for what, value, limit in one.lines()
    ]
    columns = ("server", "what", "must", "goal", "measured", "")
    return report.Table("A full upstream", columns, tuple(rows), left=2)


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
