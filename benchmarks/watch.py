"""A gateway seen from outside while others burden it: fresh calls, and what it holds."""

import asyncio
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks import gateway, processes, usage
from benchmarks.calls import Address, Connection
from benchmarks.processes import Failure
from benchmarks.stream import head

PATIENCE_SECONDS = 10.0
PAUSE_SECONDS = 0.1
# All of a crowd come at once; who comes among them waits for the work of these, as among good clients.
SETTLE_SECONDS = 30.0
QUICK_SECONDS = 0.25
MEGABYTE = 1024 * 1024
# The gateway's own answer, one through a mount to the upstream of the good, one to that of the bad.
HEALTH, OTHER, SAME = "/api/health", gateway.FILES + "/quick", gateway.SINK + "/quick"


@dataclass(frozen=True)
class State:
    """What a gateway holds: files without the upstream connections it keeps for later, calls upstream."""

    resident_mb: float
    files: int
    threads: int
    calls: int


@dataclass(frozen=True)
class Answers:
    """The longest that fresh calls took, in seconds; infinite for one that failed."""

    health: float
    other: float
    same: float


class Watch:
    """Watches one gateway with its two upstreams."""

    def __init__(self, served: gateway.Served, good: str, bad: str) -> None:
        self._served = served
        self._upstreams = (good, bad)
        parts = urlsplit(served.url)
        self.address: Address = (parts.hostname or "", parts.port or 80)
        self._requests = {
            path: head("GET", path, parts.netloc, served.headers) for path in (HEALTH, OTHER, SAME)
        }

    @property
    def log(self) -> str:
        return self._served.process.log.read_text("utf-8", "replace")

    def state(self) -> State:
        connections, calls = self._open()
        process = self._served.process
        return State(
            usage.resident_bytes(process) / MEGABYTE,
            usage.open_files(process) - (connections - calls),
            usage.threads(process),
            calls,
        )

    def calls(self) -> int:
        """Return how many calls the upstreams have open."""
        return self._open()[1]

    def _open(self) -> tuple[int, int]:
        told = [json.loads(processes.exchange("GET", f"{url}/count")[1]) for url in self._upstreams]
        return sum(one["connections"] for one in told), sum(one["calls"] for one in told)

    async def fresh(self, path: str) -> float:
        """Return how long a call on a connection of its own takes; infinite unless it is answered well."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                connection = await Connection.opened(self.address)
                try:
                    status = await connection.send(self._requests[path])
                finally:
                    connection.close()
        except (Failure, TimeoutError):
            return math.inf
        return time.monotonic() - start if status == 200 else math.inf

    async def settled(self, arrived: Callable[[int], bool]) -> float:
        """Wait until so many calls have reached the upstreams and a fresh call is quick; return how long."""
        start = time.monotonic()
        while time.monotonic() - start < SETTLE_SECONDS:
            if await self.fresh(HEALTH) < QUICK_SECONDS and arrived(self.calls()):
                return time.monotonic() - start
            await asyncio.sleep(PAUSE_SECONDS)
        return math.inf

    async def worst(self, tries: int) -> Answers:
        """Make fresh calls of every kind, some times over; those to the bad upstream hold up nobody."""
        same = asyncio.create_task(self._worst(SAME, tries))
        health, other = await asyncio.gather(self._worst(HEALTH, tries), self._worst(OTHER, tries))
        return Answers(health, other, await same)

    async def _worst(self, path: str, tries: int) -> float:
        longest = 0.0
        for _ in range(tries):
            longest = max(longest, await self.fresh(path))
            if longest == math.inf:
                break  # each failure may take all the patience
            await asyncio.sleep(PAUSE_SECONDS)
        return longest


async def seconds_until(condition: Callable[[], bool], patience: float) -> float:
    """Return how long it took until a condition held, infinite when it did not in time."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > patience:
            return math.inf
        await asyncio.sleep(0.05)
    return time.monotonic() - start
