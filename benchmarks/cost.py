"""What it costs a gateway to note what it does: for each call, in turns in one process, and each second."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from benchmarks import gateway, report, usage, viewers
from benchmarks.calls import Connection, paced
from benchmarks.figures import Spread, differences, ratios
from benchmarks.processes import ROOT, Failure
from benchmarks.stream import head
from benchmarks.subjects import Stage

# Where Python finds the switch (switch/sitecustomize.py), which names the same signals.
SWITCHED = os.pathsep.join((str(ROOT / "benchmarks" / "switch"), str(ROOT)))
STOP, RESUME = signal.SIGRTMIN + 1, signal.SIGRTMIN + 2
SWITCH_SECONDS = 5.0
VIEWERS = 2
USERS = 4
# Enough that all spans of a second are told of, and little beside the core.
RATE = 20.0
# Three times what is done every five seconds.
LIGHT_SECONDS = 15.0
# What the turns, or a start and those who begin to look, left to be done is done.
REST_SECONDS = 3.0
PERCENT = 100.0


@dataclass(frozen=True)
class Round:
    """A process of its own: seconds of processor time for a call in each turn, noted, not noted, and again
    not; and for a second of few calls, in a gateway that notes and one that does not."""

    on: Sequence[float]
    off: Sequence[float]
    again: Sequence[float]
    second_on: float
    second_off: float

    @property
    def call(self) -> float:
        """How much more a call costs when it is noted, in percent: the middle of all pairs of neighbours."""
        return (Spread.of(self._pairs(ratios)).middle - 1) * PERCENT

    @property
    def noise(self) -> float:
        """How much more a call costs in one of two turns that are alike."""
        return (Spread.of(ratios(self.again, self.off)).middle - 1) * PERCENT

    @property
    def second(self) -> float:
        """How much more of a core a second takes, in percent."""
        return (self.second_on - self.second_off) * PERCENT

    @property
    def whole(self) -> float:
        """What is missing of the small-call rate of a busy core, in percent."""
        return self.call + self.second

    @property
    def microseconds(self) -> float:
        return Spread.of(self._pairs(differences)).middle * 1e6

    def _pairs(self, compared: Callable[[Sequence[float], Sequence[float]], Sequence[float]]) -> list[float]:
        """Each turn with both beside it, one by one: their mean is above most turns of a busy machine."""
        return [*compared(self.on, self.off), *compared(self.on, self.again)]


@dataclass(frozen=True)
class Cost:
    """What all rounds say of one server."""

    server: str
    rounds: Sequence[Round]

    def over(self, what: Callable[[Round], float]) -> Spread:
        return Spread.of([what(one) for one in self.rounds])


def measured(stage: Stage, server: str, *, rounds: int, turns: int, calls: int, everything: bool) -> Cost:
    """`everything`: with traces into a file, and two who look at the dashboard. Raises Failure."""
    noting = {"PYTHONPATH": SWITCHED}
    if everything:
        noting["GATEWAY_TRACES"] = f"file:{stage.folder / 'traces.jsonl'}"
    found = []
    for number in range(rounds):
        report.progress(f"{server}: round {number + 1} of {rounds}, {turns} turns")
        with _served(stage, server, noting) as served:
            on, off, again = asyncio.run(_in_turns(served, turns, calls))
            with viewers.watching(served.url, VIEWERS) if everything else nullcontext():
                second_on = asyncio.run(_second(served))
        with _served(stage, server, {"GATEWAY_FIGURES": "false"}) as served:
            second_off = asyncio.run(_second(served))
        found.append(Round(on, off, again, second_on, second_off))
    return Cost(server, found)


def _served(stage: Stage, server: str, settings: Mapping[str, str]) -> AbstractContextManager[gateway.Served]:
    core = stage.cores.measured
    return gateway.served(server, stage.account, stage.folder, core, stage.files, stage.sink, **settings)


async def _in_turns(served: gateway.Served, turns: int, calls: int) -> tuple[list[float], ...]:
    """Return what a call costs turn by turn: noted, not noted, and again not."""
    found: tuple[list[float], ...] = ([], [], [])
    callers = await Callers.ready(served)
    try:
        for noted in (True, False):  # what is made once is made now
            await callers.switch(noted)
            await callers.cost(calls)
        for turn in range(turns):
            # Each is first as often as the others.
            for number in (turn % 3, (turn + 1) % 3, (turn + 2) % 3):
                await callers.switch(number == 0)
                found[number].append(await callers.cost(calls))
    finally:
        callers.close()
    return found


async def _second(served: gateway.Served) -> float:
    """Return the processor time of a second with a few calls."""
    callers = await Callers.ready(served)
    callers.close()
    await asyncio.sleep(REST_SECONDS)
    before, began = usage.exact_processor_seconds(served.process), time.monotonic()
    await paced(callers.address, callers.request, RATE, LIGHT_SECONDS)
    spent = usage.exact_processor_seconds(served.process) - before
    return spent / (time.monotonic() - began)


class Callers:
    """Kept connections to one gateway, each of which sends the next call when it has the answer."""

    def __init__(self, served: gateway.Served) -> None:
        parts = urlsplit(served.url)
        self.address = (parts.hostname or "", parts.port or 80)
        self.request = head("GET", f"{gateway.FILES}/small", parts.netloc, served.headers)
        self._process = served.process
        self._connections: list[Connection] = []

    @classmethod
    async def ready(cls, served: gateway.Served) -> Self:
        callers = cls(served)
        callers._connections = [await Connection.opened(callers.address) for _ in range(USERS)]
        return callers

    async def switch(self, noted: bool) -> None:
        """Have calls noted or not, and wait until it is so. Raises Failure."""
        for pid in usage.members(self._process):
            with suppress(ProcessLookupError):
                os.kill(pid, RESUME if noted else STOP)
        late, first = time.monotonic() + SWITCH_SECONDS, self._connections[0]
        while True:
            await first.call(self.request)
            if (b"server-timing:" in first.head.lower()) == noted:
                return
            if time.monotonic() > late:
                raise Failure("the gateway could not be switched")

    async def cost(self, calls: int) -> float:
        """Make so many calls; return the gateway's processor time for one. Raises Failure."""
        before = usage.exact_processor_seconds(self._process)
        await asyncio.gather(*(self._some(one, calls // USERS) for one in self._connections))
        return (usage.exact_processor_seconds(self._process) - before) / (calls // USERS * USERS)

    async def _some(self, connection: Connection, calls: int) -> None:
        for _ in range(calls):
            if await connection.send(self.request) != 200:
                raise Failure("a call failed")

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
