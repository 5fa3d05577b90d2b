"""How hard the load generator itself had to work: where it was the limit, the gateway is not to blame."""

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from performance.durations import Durations
from performance.machine import files_in_use, load_average, usable_cores

LOOK_SECONDS = 0.02
BUSY_LOOP = 0.85  # above that calls wait for the script
LATE_SHARE = 0.2  # of the usual answer
LATE_SECONDS = 0.1  # shorter delays nobody sees
FULL_MACHINE = 0.95
FULL_FILES = 0.9


@dataclass(frozen=True)
class Effort:
    """Of one step: shares are 0 to 1, of one core but for `machine`, which is of all; None where not told."""

    seconds: float
    loop: float
    process: float
    machine: float | None
    stolen: float | None
    lag_p95: float
    lag_worst: float
    load: float | None
    cores: int
    files: float | None

    def limits(self, usual: float | None, *, at_once: bool) -> list[str]:
        """Say why figures tell of the load generator rather than of the gateway.

        `usual` is what an answer takes. Where all call `at_once` a single delay is in everybody's time; else
        it is one of many moments.
        """
        found = []
        if self.loop >= BUSY_LOOP:
            found.append(f"its loop was busy {self.loop:.0%} of the time")
        late = self.lag_worst if at_once else self.lag_p95
        if late >= max(LATE_SECONDS, LATE_SHARE * (usual or 0.0)):
            found.append(f"it was {late:.2f} s late{'' if at_once else ' one time in twenty'}")
        if self.files is not None and self.files >= FULL_FILES:
            found.append(f"it used {self.files:.0%} of the open files that it may have")
        return found

    @property
    def crowded(self) -> str:
        """Say that the machine had no processor time left, whoever took it; else nothing."""
        if self.stolen is not None and self.stolen >= LATE_SHARE:
            return f"its host gave {self.stolen:.0%} of its processor time to others"
        if self.machine is not None and self.machine >= FULL_MACHINE:
            load = "" if self.load is None else f", load {self.load:g} on {self.cores} cores"
            return f"its processors were {self.machine:.0%} busy{load}"
        return ""


@dataclass(frozen=True)
class _Ticks:
    """Processor time of the whole machine, in ticks since its start."""

    total: int
    idle: int
    stolen: int

    @classmethod
    def now(cls) -> "_Ticks | None":
        with suppress(OSError, ValueError, IndexError):
            with Path("/proc/stat").open(encoding="ascii") as file:
                fields = [int(text) for text in file.readline().split()[1:9]]
            return cls(sum(fields), fields[3] + fields[4], fields[7])
        return None


class Watch:
    """Looks at this process from entering to leaving; must be used on the loop that makes the load."""

    def __init__(self) -> None:
        self._lags = Durations()

    async def __aenter__(self) -> Self:
        self._began, self._loop, self._process = _clocks()
        self._ticks = _Ticks.now()
        self._files = files_in_use()
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _look(self) -> None:
        clock, looks = time.perf_counter, 0
        while True:
            due = clock() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self._lags.add(max(clock() - due, 0.0))
            looks += 1
            if looks % 50 == 0 and (files := files_in_use()) is not None:
                self._files = max(files, self._files or 0.0)

    def effort(self) -> Effort:
        """Return what was seen until now."""
        now, loop, process = _clocks()
        seconds = max(now - self._began, 1e-9)
        ticks, machine, stolen = _Ticks.now(), None, None
        if ticks is not None and self._ticks is not None and ticks.total > self._ticks.total:
            total = ticks.total - self._ticks.total
            machine = 1 - (ticks.idle - self._ticks.idle) / total
            stolen = (ticks.stolen - self._ticks.stolen) / total
        return Effort(
            seconds=seconds,
            loop=(loop - self._loop) / seconds,
            process=(process - self._process) / seconds,
            machine=machine,
            stolen=stolen,
            lag_p95=self._lags.at(95) or 0.0,
            lag_worst=self._lags.most,
            load=load_average(),
            cores=usable_cores(),
            files=self._files,
        )


def _clocks() -> tuple[float, float, float]:
    """Time, processor time of the loop's thread, and of the whole process."""
    used = os.times()
    return time.perf_counter(), time.thread_time(), used.user + used.system
