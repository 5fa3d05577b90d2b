"""`python -m benchmarks.concurrency`: many calls at once to an upstream that takes three seconds.

One worker on one core, with load and upstream on another; every connection is open before the start.
"""

import argparse
import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from benchmarks import command, gateway, nginx, report, upstream, usage
from benchmarks.calls import Wave, together
from benchmarks.figures import Limit, Spread, at_most
from benchmarks.machine import Cores, reserved
from benchmarks.stream import head

CALL_SECONDS = 3.0
VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "pyreqwest")
# By calls at once.
HTTP1_LIMITS: Mapping[int, Limit] = {
    10: at_most(3.05, 3.02, "s"),
    100: at_most(3.2, 3.1, "s"),
    1000: at_most(3.6, 3.3, "s"),
    5000: at_most(5.5, 4.2, "s"),
}
HTTP2_LIMITS: Mapping[int, Limit] = {1000: at_most(4, 3.4, "s")}
# Of calls of another length: so much longer than one call.
SHORT_LIMITS: Mapping[tuple[float, int], Limit] = {(1.0, 500): at_most(1.4, 1.2, "s")}
HTTP2_USERS = 1000
MEMORY_LIMITS: Mapping[int, Limit] = {5000: at_most(80, 40, "KB")}
KILOBYTE = 1024
# A client address has some 28,000 local ports towards one server, and time passes until one is used again.
MOST_USERS = 10_000
# Room for those that come while earlier ones leave.
SPARE_CONNECTIONS = 100


@dataclass(frozen=True)
class Step:
    """One wave of calls: how long it took, what it made resident, by call."""

    server: str
    protocol: str
    calls: int
    seconds: float
    kilobytes: float


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.concurrency", "Measure calls that wait together.")
    parser.add_argument("--users", type=_users, default=(10, 100, 1000, 5000), metavar="N,...")
    parser.add_argument("--rounds", type=command.whole(1, 20), default=1, metavar="N")
    parser.add_argument(
        "--seconds", type=command.between(0.1, 30), default=CALL_SECONDS, metavar="S", help="length of a call"
    )
    parser.add_argument(
        "--http2", action="store_true", help="only an HTTP/2 upstream, which allows 100 calls a connection"
    )
    parser.add_argument("--server", choices=gateway.SERVERS, help="this one alone")
    return parser.parse_args(arguments)


def _users(text: str) -> tuple[int, ...]:
    one = command.whole(1, MOST_USERS)
    return tuple(sorted({one(part) for part in text.split(",")}))


def main(asked: argparse.Namespace, folder: Path) -> int:
    cores, machine = reserved(VERSIONS, ("nginx",), connections=max(asked.users) + SPARE_CONNECTIONS)
    steps = list(climbed(asked, folder, cores))
    tables = (_waits(steps, asked.seconds), _memory(steps))
    notes = [
        f"Rounds: {asked.rounds}, each step with a freshly started gateway of its own. Memory is the highest "
        "that was resident, less what was before the connections came, by call."
    ]
    report.show(machine, tables, notes)
    report.save(asked.markdown, report.markdown(machine, tables, notes))
    report.save(asked.json, {"machine": machine, "steps": [asdict(step) for step in steps]})
    verdicts = {row[-1] for table in tables for row in table.rows}
    return command.SHORT if "short" in verdicts else command.FINE


def climbed(asked: argparse.Namespace, folder: Path, cores: Cores) -> Iterator[Step]:
    servers = [asked.server] if asked.server else list(gateway.SERVERS)
    account = gateway.Account.made(folder)
    with upstream.served(folder, cores.load, asked.seconds) as slow:
        for calls in () if asked.http2 else asked.users * asked.rounds:
            for server in servers:
                yield measured(server, "HTTP/1.1", calls, slow, account, folder, cores)
        with nginx.http2(folder, cores.load, slow) as door:
            for calls in asked.users * asked.rounds:
                if asked.http2 or calls == HTTP2_USERS:
                    for server in servers:
                        yield measured(server, "HTTP/2", calls, door, account, folder, cores)


def measured(
    server: str, protocol: str, calls: int, slow: str, account: gateway.Account, folder: Path, cores: Cores
) -> Step:
    """Start a gateway and send one wave through it. Raises Failure when a single call fails."""
    report.progress(f"{calls} calls, gateway on {server}, {protocol} upstream")
    with _gateway(server, protocol, calls, slow, account, folder, cores) as served:
        parts = urlsplit(served.url)
        address = (parts.hostname or "", parts.port or 80)
        request = head("GET", f"{gateway.FILES}/slow", parts.netloc, served.headers)
        ready = head("GET", f"{gateway.FILES}/ready", parts.netloc, served.headers)
        _run(address, ready, 1)
        usage.forget_peak(served.process)
        before = usage.resident_bytes(served.process)
        wave = _run(address, request, calls)
        peak = usage.peak_resident_bytes(served.process)
    return Step(server, protocol, calls, wave.seconds, max(0, peak - before) / calls / KILOBYTE)


@contextmanager
def _gateway(
    server: str, protocol: str, calls: int, slow: str, account: gateway.Account, folder: Path, cores: Cores
) -> Iterator[gateway.Served]:
    settings = {
        "UPSTREAM_MAX_CONNECTIONS": str(calls + SPARE_CONNECTIONS),
        "UPSTREAM_HTTP_VERSION": "2" if protocol == "HTTP/2" else "1.1",
    }
    with gateway.served(server, account, folder, cores.measured, slow, slow, **settings) as served:
        yield served
    time.sleep(0.2)  # the upstream sees thousands of connections end


def _run(address: tuple[str, int], request: bytes, calls: int) -> Wave:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(together(address, request, calls))


def _waits(steps: Sequence[Step], call_seconds: float) -> report.Table:
    rows = []
    for (server, protocol, calls), found in _grouped(steps).items():
        usual = HTTP2_LIMITS if protocol == "HTTP/2" else HTTP1_LIMITS
        known = call_seconds == CALL_SECONDS
        limit = usual.get(calls) if known else SHORT_LIMITS.get((call_seconds, calls))
        said = Spread.of([step.seconds for step in found])
        rows.append((server, protocol, f"{calls:,}", *_judged(said, limit, "s")))
    columns = ("server", "upstream", "calls at once", "at least", "goal", "last answer after", "rounds", "")
    return report.Table(f"Calls of {call_seconds:g} s", columns, tuple(rows), left=2)


def _memory(steps: Sequence[Step]) -> report.Table:
    most = max(step.calls for step in steps)
    rows = []
    for (server, protocol, calls), found in _grouped(steps).items():
        if calls == most:
            said = Spread.of([step.kilobytes for step in found])
            rows.append((server, protocol, f"{calls:,}", *_judged(said, MEMORY_LIMITS.get(calls), "KB")))
    columns = ("server", "upstream", "calls at once", "at most", "goal", "by call", "rounds", "")
    return report.Table("Resident memory of a waiting call", columns, tuple(rows), left=2)


def _grouped(steps: Sequence[Step]) -> dict[tuple[str, str, int], list[Step]]:
    groups: dict[tuple[str, str, int], list[Step]] = {}
    for step in steps:
        groups.setdefault((step.server, step.protocol, step.calls), []).append(step)
    return groups


def _judged(said: Spread, limit: Limit | None, unit: str) -> tuple[str, str, str, str, str]:
    verdict = limit.verdict(said.middle) if limit else ""
    return *report.limits(limit), report.with_unit(said.middle, unit), report.spread(said), verdict


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
