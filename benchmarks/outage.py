"""`python -m benchmarks.outage`: how much a dead upstream is asked, and how soon again when it lives.

Three upstreams die for half a minute, each in its own way, one of two addresses of a fourth for good; a fifth
answers 503 to everything.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from benchmarks import command, gateway, report
from benchmarks.calls import Address, Told, in_turn, offered
from benchmarks.figures import Limit, at_most, percentile
from benchmarks.machine import Cores, reserved
from benchmarks.overload import mount
from benchmarks.service import Service
from benchmarks.stream import head

VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "httptools")
# Calls a second to each upstream.
RATE = 20.0
# What a hanging upstream is given.
TIMEOUT_SECONDS = 1.0
OBSERVED_SECONDS = 4.0
HEAL_SECONDS = 5.0
WAYS = ("refuses", "resets", "hangs")
LIST = "/api/avatar/list"
# Enough calls for a tenth to be a number, few enough for a moment.
FAILING_CALLS = 200
NOT_ASKED = b"upstream_unavailable"

ASKED = at_most(10, 5, "%")
BACK = at_most(HEAL_SECONDS, 4, "s")
ATTEMPTS = at_most(1.1, None, "×")
REFUSING = at_most(50, 20, "ms")
UNNOTICED = at_most(0, None, "calls")


@dataclass(frozen=True)
class Outage:
    """One upstream that was dead: how much it was asked at the end, and when calls came through again."""

    way: str
    asked_percent: float
    refusing_p99_ms: float
    back_seconds: float


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.outage", "Measure what a dead upstream is asked, and its return.")
    parser.add_argument(
        "--seconds",
        type=command.between(5, 600),
        default=30.0,
        metavar="S",
        help="dead before it is observed",
    )
    parser.add_argument("--server", choices=gateway.SERVERS, default="hypercorn")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    cores, machine = reserved(VERSIONS)
    account = gateway.Account.made(folder)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report.progress(f"gateway on {asked.server}: {asked.seconds:g} s dead, then healed")
        outages, attempts, noticed = runner.run(measured(asked.server, account, folder, cores, asked.seconds))
    table = _table(outages, attempts, noticed)
    notes = [f"{RATE:g} calls a second to each; a hanging upstream is given {TIMEOUT_SECONDS:g} s."]
    report.show(machine, [table], notes)
    report.save(asked.markdown, report.markdown(machine, [table], notes))
    found = {"outages": [asdict(one) for one in outages], "attempts": attempts, "noticed": noticed}
    report.save(asked.json, {"machine": machine, **found})
    return command.SHORT if any(row[-1] == "short" for row in table.rows) else command.FINE


async def measured(
    server: str, account: gateway.Account, folder: Path, cores: Cores, seconds: float
) -> tuple[list[Outage], float, int]:
    """Return the outages, attempts by call of an upstream that always fails, and failed lists.

    Raises Failure when a call gets no answer.
    """
    services = {way: Service() for way in (*WAYS, "busy", "first", "second")}
    for service in services.values():
        await service.start()
    mounts = [mount(f"/{name}", services[name].url, timeout=TIMEOUT_SECONDS) for name in (*WAYS, "busy")]
    settings = {
        "GATEWAY_MOUNTS": json.dumps(mounts),
        "AVATAR_SERVICE_URL": f"{services['first'].url},{services['second'].url}",
    }
    nowhere = services["busy"].url
    with gateway.served(server, account, folder, cores.measured, nowhere, nowhere, **settings) as served:
        parts = urlsplit(served.url)
        address = (parts.hostname or "", parts.port or 80)
        attempts = await _attempts(address, services["busy"])
        dying = [_outage(address, way, services[way], seconds) for way in WAYS]
        request = head("GET", LIST, parts.netloc, served.headers)
        noticed, outages = await asyncio.gather(
            _half_dead(address, request, services["first"]), asyncio.gather(*dying)
        )
    for service in services.values():
        await service.stop()
    return outages, attempts, noticed


async def _attempts(address: Address, busy: Service) -> float:
    busy.mode = "busy"
    request = head("GET", "/busy/x", "gateway", {})
    calls = 0
    while calls < FAILING_CALLS:
        calls += len(await in_turn(address, request, 1, 0.2))
    return busy.asked / calls


async def _outage(address: Address, way: str, service: Service, seconds: float) -> Outage:
    request = head("GET", f"/{way}/x", "gateway", {})
    await offered(address, request, RATE, 1.0)
    await _kill(service, way)
    await offered(address, request, RATE, seconds)
    before = service.asked
    told = await offered(address, request, RATE, OBSERVED_SECONDS)
    # Nobody counts connections that are refused: there, the gateway's own answer tells.
    kept_away = [one for one in told if one.status == 503]
    asked = len(told) - len(kept_away) if way == "refuses" else service.asked - before
    healed = time.perf_counter()
    service.mode = "answers"
    if way == "refuses":
        await service.start()
    after = await offered(address, request, RATE, HEAL_SECONDS + 1)
    failed = [one.sent + one.seconds for one in after if one.status != 200]
    return Outage(
        way, 100 * asked / len(told), _p99(kept_away), max(0.0, max(failed, default=healed) - healed)
    )


async def _kill(service: Service, way: str) -> None:
    service.mode = way
    await service.stop()  # whoever is connected notices
    if way != "refuses":
        await service.start()


async def _half_dead(address: Address, request: bytes, first: Service) -> int:
    """Ask for the list while one of two catalogue addresses dies; return how many calls noticed."""
    await offered(address, request, RATE, 3.0)
    await first.stop()
    told = await offered(address, request, RATE, 10.0)
    return sum(one.status != 200 or b"\r\nwarning: " in one.head.lower() for one in told)


def _p99(told: Sequence[Told]) -> float:
    return percentile([one.seconds for one in told], 0.99) * 1000 if told else float("inf")


def _table(outages: Sequence[Outage], attempts: float, noticed: int) -> report.Table:
    lines: list[tuple[str, float, Limit]] = []
    for one in outages:
        lines += [
            (f"{one.way}: asked after the wait, of all calls", one.asked_percent, ASKED),
            (f"{one.way}: p99 of refusing", one.refusing_p99_ms, REFUSING),
            (f"{one.way}: last failure after healing", one.back_seconds, BACK),
        ]
    lines += [
        ("always 503: attempts by call", attempts, ATTEMPTS),
        ("one of two addresses dies: lists that failed or were stale", noticed, UNNOTICED),
    ]
    rows = [
        (what, *report.limits(limit), report.with_unit(value, limit.unit), limit.verdict(value))
        for what, value, limit in lines
    ]
    return report.Table("Dead upstreams", ("what", "must", "goal", "measured", ""), tuple(rows))


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
