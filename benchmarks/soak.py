"""`python -m benchmarks.soak`: does a gateway grow while it works?

Small calls, large bodies both ways and downloads that are left half-way, in two equal halves. Memory and open
files are read when each half has ended and nothing is under way.
"""

import argparse
import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from benchmarks import command, gateway, nginx, report, upstream, usage
from benchmarks.calls import Address, Connection
from benchmarks.machine import Cores, described, require
from benchmarks.stream import head

VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "pyreqwest")
USERS = 16
# Of a caller's calls, every so many is followed by a large body up, one down, and one left half-way.
LARGE_EVERY = 50
MOST_GROWTH = 1.05
# The upstream pool may still open another connection while it grows to what its users need.
SPARE_FILES = 4
# Abandoned calls are taken back within 250 ms.
SETTLE_SECONDS = 1.0
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class State:
    """What a gateway held at one moment."""

    calls: int
    resident_mb: float
    open_files: int


@dataclass(frozen=True)
class Soaked:
    """A gateway at its start, at the half and at the end."""

    server: str
    start: State
    half: State
    end: State

    @property
    def verdict(self) -> str:
        grown = self.end.resident_mb > self.half.resident_mb * MOST_GROWTH
        return "short" if grown or self.end.open_files > self.half.open_files + SPARE_FILES else "ok"


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.soak", "Look for growth: of memory and of open files.")
    parser.add_argument(
        "--seconds", type=command.between(1, 86_400), default=20.0, metavar="S", help="both halves, at most"
    )
    parser.add_argument(
        "--calls",
        type=command.whole(100, 100_000_000),
        default=20_000,
        metavar="N",
        help="both halves, at most",
    )
    parser.add_argument("--server", choices=gateway.SERVERS, help="this one alone")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    require(("nginx", "taskset", "setpriv"))
    cores = Cores.here()
    machine = described(VERSIONS)
    os.sched_setaffinity(0, {cores.load})
    account = gateway.Account.made(folder)
    soaked = []
    with nginx.files(folder, cores.load) as files, upstream.served(folder, cores.load) as sink:
        for server in [asked.server] if asked.server else gateway.SERVERS:
            report.progress(f"gateway on {server}: up to {asked.seconds:g} s or {asked.calls} calls")
            with gateway.served(server, account, folder, cores.measured, files, sink) as served:
                soaked.append(measured(server, served, asked.seconds / 2, asked.calls // 2))
    table = _table(soaked)
    notes = [
        f"{USERS} callers. At the end, memory may be {MOST_GROWTH - 1:.0%} above that of the half, and "
        f"{SPARE_FILES} files more may be open."
    ]
    report.show(machine, [table], notes)
    report.save(asked.markdown, report.markdown(machine, [table], notes))
    report.save(asked.json, {"machine": machine, "soaked": [asdict(one) for one in soaked]})
    return command.SHORT if any(one.verdict == "short" for one in soaked) else command.FINE


def measured(server: str, served: gateway.Served, seconds: float, calls: int) -> Soaked:
    """Work on a gateway for two halves. Raises Failure when a call fails."""
    work = Work(served, _address(served.url))
    states = [_state(served, 0)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for _ in range(2):
            runner.run(work.half(seconds, calls))
            time.sleep(SETTLE_SECONDS)
            states.append(_state(served, work.calls))
    return Soaked(server, *states)


class Work:
    """The callers of one gateway; `calls` is what was answered so far."""

    def __init__(self, served: gateway.Served, address: Address) -> None:
        self._address = address
        authority = f"{address[0]}:{address[1]}"
        self._small = head("GET", f"{gateway.FILES}/small", authority, served.headers)
        self._down = head("GET", f"{gateway.FILES}/piece", authority, served.headers)
        up = head("POST", gateway.SINK, authority, served.headers, nginx.PIECE_BYTES)
        self._up = up + bytes(nginx.PIECE_BYTES)
        self.calls = 0

    async def half(self, seconds: float, calls: int) -> None:
        """Work for so long, or for so many calls, whichever is less; leaves no connection open."""
        until = time.monotonic() + seconds
        budget = itertools.repeat(None, calls)

        def goes_on() -> bool:
            return time.monotonic() < until and next(budget, self) is None

        results = await asyncio.gather(
            *(self._caller(number, goes_on) for number in range(USERS)), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _caller(self, number: int, goes_on: Callable[[], bool]) -> None:
        large = itertools.cycle((self._sent(self._up), self._sent(self._down), self._left))
        connection = await Connection.opened(self._address)
        try:
            turn = number  # callers take their large bodies at different times
            while goes_on():
                await connection.call(self._small)
                self.calls += 1
                turn += 1
                if turn % LARGE_EVERY == 0 and goes_on():
                    await next(large)(connection)
                    self.calls += 1
        finally:
            connection.close()

    def _sent(self, request: bytes) -> Callable[[Connection], Awaitable[None]]:
        return lambda connection: connection.call(request)

    async def _left(self, _: Connection) -> None:
        """Begin a download on a connection of its own, and go."""
        connection = await Connection.opened(self._address)
        try:
            connection.send(self._down)
            await connection.begun()
        finally:
            connection.close()


def _address(url: str) -> Address:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


def _state(served: gateway.Served, calls: int) -> State:
    process = served.process
    return State(calls, usage.resident_bytes(process) / MEGABYTE, usage.open_files(process))


def _table(soaked: Sequence[Soaked]) -> report.Table:
    rows = []
    for one in soaked:
        grown = one.end.resident_mb / one.half.resident_mb - 1
        for name, state in (("start", one.start), ("half", one.half), ("end", one.end)):
            last = name == "end"
            rows.append(
                (
                    one.server,
                    name,
                    f"{state.calls:,}",
                    f"{state.resident_mb:.1f} MB",
                    f"{grown:+.1%}" if last else "",
                    str(state.open_files),
                    one.verdict if last else "",
                )
            )
    columns = ("server", "at the", "calls", "resident", "since the half", "open files", "")
    return report.Table("Growth", columns, tuple(rows), left=2)


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
