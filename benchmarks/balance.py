"""`python -m benchmarks.balance`: what two addresses of a service are worth when one dies or is slow.

A mount with two addresses. One is killed under load and comes back; then one is ten times slower, under calls
that a mount with both addresses balances and under calls that are sent to both in turn; then both are dead.
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
from benchmarks.calls import Address, Told, offered
from benchmarks.figures import Limit, at_most, percentile
from benchmarks.machine import Cores, reserved
from benchmarks.overload import mount
from benchmarks.processes import Failure, exchange
from benchmarks.service import Service, Talk
from benchmarks.stream import head

VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "httptools")
MILLISECONDS = 1000
# What GATEWAY_CHECK_SECONDS is by default, and how long a check may take.
CHECK_SECONDS, ANSWER_SECONDS = 2.0, 1.0
CHECK = b"GET /health "
# Calls a second: of a service that dies, and of one whose slow address could not take half of them.
RATE, SLOW_RATE = 100.0, 60.0
QUICK, SLOW = 0.02, 0.2
PLACES = 4
LOOK_SECONDS = 0.02

FAILED = at_most(5, 0, "calls")
SEEN = at_most(CHECK_SECONDS, None, "s")
# The longest wait for a check, and a moment for the call that comes next.
BACK = at_most(CHECK_SECONDS + 0.1, None, "s")
CHECKS = Limit(1, 1, "check", more_is_better=False)
SHARE = at_most(20, 15, "%")
TAIL = at_most(0.5, 0.25, "×")
REFUSING = at_most(50, 20, "ms")
POLITE = Limit(1, None, "of the refused", more_is_better=True)


class Watched(Service):
    """A service that notes when it was asked, and whether by a health check."""

    def __init__(self, places: int = 1_000_000, seconds: float = 0.0) -> None:
        super().__init__(places, seconds)
        self.noted: list[tuple[float, bool]] = []

    def arrived(self, talk: Talk) -> None:
        self.noted.append((time.perf_counter(), talk.request.startswith(CHECK)))
        super().arrived(talk)

    @property
    def calls(self) -> list[float]:
        """When calls came, health checks left out."""
        return [when for when, is_check in self.noted if not is_check]


@dataclass(frozen=True)
class Balanced:
    """What was measured on one server; times in seconds, tails in milliseconds."""

    server: str
    failed: int
    last_failure: float
    seen: float
    back: float
    checks: int
    slow_percent: float
    p99: float
    p99_in_turn: float
    refusing_p99: float
    polite: float

    def lines(self) -> list[tuple[str, float, Limit]]:
        return [
            ("one killed: calls that failed", self.failed, FAILED),
            ("last failure after it was killed", self.last_failure, SEEN),
            ("until /stats shows it ejected", self.seen, SEEN),
            ("healed: until its first call", self.back, BACK),
            ("checks before that call", self.checks, CHECKS),
            (f"one {SLOW / QUICK:g}× slower: its share of calls", self.slow_percent, SHARE),
            ("p99 of all calls, of that in turn", self.p99 / self.p99_in_turn, TAIL),
            ("both dead: p99 of refusing", self.refusing_p99, REFUSING),
            ("share with 503 and Retry-After", self.polite, POLITE),
        ]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.balance", "Measure what a second address of a service is worth.")
    parser.add_argument(
        "--seconds", type=command.between(2, 600), default=3.0, metavar="S", help="each of five phases"
    )
    parser.add_argument("--server", choices=gateway.SERVERS, default="hypercorn")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    cores, machine = reserved(VERSIONS)
    account = gateway.Account.made(folder)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report.progress(f"gateway on {asked.server}, five phases of {asked.seconds:g} s")
        found = runner.run(measured(asked.server, account, folder, cores, asked.seconds))
    rows = [
        (what, *report.limits(limit), report.with_unit(value, limit.unit), limit.verdict(value))
        for what, value, limit in found.lines()
    ]
    table = report.Table("Two addresses", ("what", "must", "goal", "measured", ""), tuple(rows))
    notes = [
        f"{RATE:g} POSTs a second while one dies, a check every {CHECK_SECONDS:g} s; then {SLOW_RATE:g} a "
        f"second to {PLACES} places of {QUICK:g} s and as many of {SLOW:g} s: p99 {found.p99:.0f} ms, "
        f"in turn {found.p99_in_turn:.0f} ms."
    ]
    report.show(machine, [table], notes)
    report.save(asked.markdown, report.markdown(machine, [table], notes))
    report.save(asked.json, {"machine": machine, **asdict(found)})
    return command.SHORT if any(row[-1] == "short" for row in rows) else command.FINE


async def measured(
    server: str, account: gateway.Account, folder: Path, cores: Cores, seconds: float
) -> Balanced:
    """Raises Failure when a call gets no answer, or an address does not come back."""
    one, other = Watched(), Watched()
    quick, slow = Watched(PLACES, QUICK), Watched(PLACES, SLOW)
    for service in (one, other, quick, slow):
        await service.start()
    mounts = {"/two": f"{one.url},{other.url}", "/slow": f"{quick.url},{slow.url}"}
    mounts |= {"/quick-alone": quick.url, "/slow-alone": slow.url}
    settings = {
        "GATEWAY_MOUNTS": json.dumps(
            [mount(prefix, urls, methods=["POST"]) for prefix, urls in mounts.items()]
        )
    }
    with gateway.served(server, account, folder, cores.measured, one.url, one.url, **settings) as served:
        parts = urlsplit(served.url)
        address = (parts.hostname or "", parts.port or 80)
        killed, told, seen = await _killed(address, served.url, one, seconds)
        back, checks = await _healed(address, one)
        percent, p99, in_turn = await _slow(address, quick, slow, seconds)
        refused = await _nobody(address, (one, other), seconds)
    for service in (quick, slow):
        await service.stop()
    failed = [call.sent + call.seconds - killed for call in told if call.status != 200]
    polite = [call for call in refused if b"\r\nretry-after: " in call.head.lower()]
    return Balanced(
        server,
        failed=len(failed),
        last_failure=max(failed, default=0.0),
        seen=seen,
        back=back,
        checks=checks,
        slow_percent=percent,
        p99=p99,
        p99_in_turn=in_turn,
        refusing_p99=_p99(refused),
        polite=len(polite) / len(refused) if refused else 0.0,
    )


def _post(prefix: str) -> bytes:
    return head("POST", f"{prefix}/x", "gateway", {}, 0)


async def _killed(
    address: Address, url: str, one: Watched, seconds: float
) -> tuple[float, list[Told], float]:
    """Kill one of two under load; return when, how all calls ended, and when `/stats` told of it."""
    calling = asyncio.create_task(offered(address, _post("/two"), RATE, 1.0 + seconds))
    await asyncio.sleep(1.0)
    killed = time.perf_counter()
    await one.stop()
    while not await _ejected(url):
        if time.perf_counter() - killed > seconds:
            break
        await asyncio.sleep(LOOK_SECONDS)
    seen = time.perf_counter() - killed
    return killed, await calling, seen


async def _ejected(url: str) -> bool:
    _, told = await asyncio.to_thread(exchange, "GET", f"{url}/stats")
    return any(one["state"] == "ejected" for one in json.loads(told)["upstreams"]["mount /two"]["addresses"])


async def _healed(address: Address, one: Watched) -> tuple[float, int]:
    """Let the dead one listen again; return after how long it was called, and how many checks came before."""
    calling = asyncio.create_task(offered(address, _post("/two"), RATE, 2 * CHECK_SECONDS + ANSWER_SECONDS))
    await asyncio.sleep(0.5)
    one.noted.clear()
    healed = time.perf_counter()
    await one.start()
    await calling
    if not one.calls:
        raise Failure("an address that came back was not called again")
    first = one.calls[0]
    return first - healed, sum(is_check for when, is_check in one.noted if when < first)


async def _slow(
    address: Address, quick: Watched, slow: Watched, seconds: float
) -> tuple[float, float, float]:
    """Return the slow one's share of calls in percent, the p99 of all, and the p99 where they take turns."""
    told = await offered(address, _post("/slow"), SLOW_RATE, seconds)
    percent = 100 * len(slow.calls) / len(told)
    alone = [
        offered(address, _post(prefix), SLOW_RATE / 2, seconds) for prefix in ("/quick-alone", "/slow-alone")
    ]
    in_turn = [call for calls in await asyncio.gather(*alone) for call in calls]
    return percent, _p99(told), _p99(in_turn)


async def _nobody(address: Address, services: Sequence[Service], seconds: float) -> list[Told]:
    """Kill both; return the answers to calls from when nobody is dialled any more."""
    for service in services:
        await service.stop()
    await offered(address, _post("/two"), RATE, CHECK_SECONDS + ANSWER_SECONDS)
    return [call for call in await offered(address, _post("/two"), RATE, seconds) if call.status == 503]


def _p99(told: Sequence[Told]) -> float:
    return percentile([one.seconds for one in told], 0.99) * MILLISECONDS if told else float("inf")


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
