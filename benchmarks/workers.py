"""`python -m benchmarks.workers`: what does the death of a worker cost its clients?

Two workers serve small calls at a steady rate over kept connections. One worker is killed, again and again;
counted are the calls that got no answer, and the time until two workers answer again.
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benchmarks import command, gateway, nginx, report, upstream, usage
from benchmarks.calls import Address, Connection
from benchmarks.machine import Cores, described, require
from benchmarks.processes import Failure, Process
from benchmarks.stream import head

VERSIONS = ("flask", "hypercorn", "granian", "uvloop")
WORKERS = 2
MOST_LOST = 5
MOST_SECONDS = 5.0
PATIENCE_SECONDS = 10.0
# Connections that are opened together to see who accepts them.
PROBES = 4
PROBE_SECONDS = 0.2
WARM_SECONDS = 1.0
STOP_SECONDS = 20.0
ESTABLISHED = "01"


@dataclass(frozen=True)
class Killed:
    """One death: the calls made around it, how many of them got no answer, and when it was made good.

    `in_flight` of the lost calls were already sent, which nobody can save; the others were sent to a process
    that was dying.
    """

    server: str
    calls: int
    lost: int
    in_flight: int
    slowest_seconds: float
    whole_seconds: float

    @property
    def verdict(self) -> str:
        return "ok" if self.lost <= MOST_LOST and self.whole_seconds <= MOST_SECONDS else "short"


class Load:
    """Callers that each keep a connection, call at a steady rate and connect again when it was closed."""

    def __init__(self, address: Address, request: bytes, *, rate: float, connections: int) -> None:
        self.calls = 0
        self.lost: list[float] = []  # when they began
        self.slowest_seconds = 0.0
        self._address = address
        self._request = request
        self._pause = connections / rate
        self._callers = connections
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._caller(number)) for number in range(self._callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin_anew(self) -> None:
        self.calls, self.lost, self.slowest_seconds = 0, [], 0.0

    async def _caller(self, number: int) -> None:
        connection: Connection | None = None
        due = time.monotonic() + self._pause * number / self._callers
        try:
            while True:
                await asyncio.sleep(due - time.monotonic())
                began = time.monotonic()
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        if connection is None or not connection.open:
                            connection = await Connection.opened(self._address)
                        await connection.call(self._request)
                except (Failure, TimeoutError):
                    self.lost.append(began)
                    connection = None
                self.calls += 1
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
                # Turns that were missed are skipped: callers that made up for them would call in step.
                while due <= time.monotonic():
                    due += self._pause
        finally:
            if connection is not None:
                connection.close()


async def whole(process: Process, address: Address, request: bytes, workers: int, without: int = 0) -> float:
    """Wait until so many workers answer, `without` not among them; return the seconds. Raises Failure."""
    began = time.monotonic()
    while time.monotonic() < began + 60:
        probes: list[Connection] = []
        try:
            with contextlib.suppress(Failure):
                probes += await asyncio.gather(*(Connection.opened(address) for _ in range(PROBES)))
                await asyncio.gather(*(probe.call(request) for probe in probes))
                # Looked at beside the loop: a load that stands still meanwhile would call in bunches.
                if len(await asyncio.to_thread(serving, process, address[1]) - {without}) >= workers:
                    return time.monotonic() - began
        finally:
            for probe in probes:
                probe.close()
        await asyncio.sleep(PROBE_SECONDS)
    raise Failure(f"{workers} workers never answered:\n{process.last_words()}")


def serving(process: Process, port: int) -> set[int]:
    """The processes of a gateway that hold a client's connection."""
    ours = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == ESTABLISHED:
            ours.add(f"socket:[{fields[9]}]")
    return {pid for pid in usage.members(process) if ours & set(_files(pid))}


def _files(pid: int) -> list[str]:
    found = []
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(os.readlink(entry))
    return found


async def killed(
    name: str, served: gateway.Served, load: Load, address: Address, request: bytes, seconds: float
) -> Killed:
    """Kill one worker amid the load. Raises Failure."""
    load.begin_anew()
    victim = max(await asyncio.to_thread(serving, served.process, address[1]))
    await asyncio.sleep(seconds / 2)
    os.kill(victim, signal.SIGKILL)
    dead_at = time.monotonic()
    await asyncio.sleep(PROBE_SECONDS)  # what the load meets now is not to be disturbed
    again = await whole(served.process, address, request, WORKERS, without=victim)
    await asyncio.sleep(seconds / 2)
    in_flight = sum(began < dead_at for began in load.lost)
    return Killed(name, load.calls, len(load.lost), in_flight, load.slowest_seconds, PROBE_SECONDS + again)


async def measured(name: str, served: gateway.Served, asked: argparse.Namespace) -> list[Killed]:
    port = int(re.split(r"[:/]", served.url)[4])
    address = ("127.0.0.1", port)
    request = head("GET", f"{gateway.FILES}/small", f"127.0.0.1:{port}", served.headers)
    await whole(served.process, address, request, WORKERS)
    async with Load(address, request, rate=asked.rate, connections=asked.connections) as load:
        await asyncio.sleep(WARM_SECONDS)
        return [await killed(name, served, load, address, request, asked.seconds) for _ in range(asked.kills)]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.workers", "Kill workers under load.")
    parser.add_argument(
        "--kills", type=command.whole(1, 1000), default=2, metavar="N", help="deaths a server"
    )
    parser.add_argument(
        "--seconds", type=command.between(0.5, 600), default=3.0, metavar="S", help="of load around a death"
    )
    parser.add_argument(
        "--rate", type=command.between(1, 10_000), default=200.0, metavar="N", help="calls a second"
    )
    parser.add_argument(
        "--connections", type=command.whole(1, 1000), default=20, metavar="N", help="kept connections"
    )
    parser.add_argument("--server", choices=gateway.SERVERS, help="this one alone")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    require(("nginx", "taskset", "setpriv"))
    cores = Cores.here()
    machine = described(VERSIONS)
    account = gateway.Account.made(folder)
    deaths: list[Killed] = []
    codes: dict[str, int] = {}
    with nginx.files(folder, cores.load) as files, upstream.served(folder, cores.load) as sink:
        for server in [asked.server] if asked.server else gateway.SERVERS:
            report.progress(f"gateway on {server}: {WORKERS} workers, {asked.kills} deaths")
            with gateway.served(server, account, folder, None, files, sink, WORKERS=str(WORKERS)) as served:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    deaths += runner.run(measured(server, served, asked))
                served.process.popen.terminate()
                codes[server] = served.process.popen.wait(STOP_SECONDS)
    tables = [_table(deaths, codes)]
    notes = [
        f"{asked.rate:g} calls a second over {asked.connections} kept connections. Lost are calls without an "
        f"answer, none is made again: at most {MOST_LOST} a death. Whole are {WORKERS} workers that answer: "
        f"after {MOST_SECONDS:g} s at most."
    ]
    report.show(machine, tables, notes)
    report.save(asked.markdown, report.markdown(machine, tables, notes))
    report.save(asked.json, {"machine": machine, "deaths": [asdict(one) for one in deaths], "codes": codes})
    fine = all(one.verdict == "ok" for one in deaths) and not any(codes.values())
    return command.FINE if fine else command.SHORT


def _table(deaths: Sequence[Killed], codes: dict[str, int]) -> report.Table:
    rows = [
        (
            one.server,
            str(one.calls),
            str(one.lost),
            str(one.in_flight),
            f"{one.slowest_seconds * 1000:.0f} ms",
            f"{one.whole_seconds:.1f} s",
            str(codes[one.server]),
            one.verdict,
        )
        for one in deaths
    ]
    columns = ("server", "calls", "lost", "of them in flight", "slowest", "whole after", "exit code", "")
    return report.Table("A worker dies", columns, tuple(rows))


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
