"""Where the workers of one run tell each other what they counted: a folder, with a seat for each of them.

A seat is a lock and a file beside it. The kernel lets go of a lock when its process ends, however it ends;
so a seat whose lock can be had belonged to a worker that is gone. Its counts stay part of the whole, and the
next worker takes the seat and counts on from them: totals never go down, and seats do not pile up.
"""

import asyncio
import fcntl
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.services.counts import Counts
from backend.services.figures import Figures

log = logging.getLogger("gateway.figures")

PUBLISH_SECONDS = 1.0
MOST_SEATS = 256
# A worker's file is some 100 KB; what is larger is not one.
MOST_BYTES = 16 << 20

Gauges = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """What one worker told last; without gauges it is gone, and only its counts are left."""

    counts: Counts
    gauges: Gauges | None
    seat: int = 0


class Board:
    """This process's seat in the folder, and its view of the others. Without a folder it is alone."""

    def __init__(self, folder: Path | None, figures: Figures, gauges: Callable[[], Gauges]) -> None:
        self._folder = folder
        self._figures = figures
        self._gauges = gauges
        self._seat: int | None = None
        self._lock: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._failing = False

    async def start(self) -> None:
        """Take a seat and begin to publish; without one, as on a full disk, the process stands alone."""
        if self._folder is None:
            return
        try:
            left = await asyncio.to_thread(self._sit_down, self._folder)
        except OSError as error:
            log.warning("workers cannot share their figures: %s", error.strerror)
            return
        if left is not None:
            self._figures.take_over(left)
        self._task = asyncio.create_task(self._keep_publishing(), name="figures")

    async def aclose(self) -> None:
        """Publish for the last time and give the seat up; the counts stay."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._publish()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    async def everyone(self) -> list[Told]:
        """Return what each worker told last, this one first and as of now."""
        if self._folder is None or self._seat is None:
            return [Told(self._figures.taken(), self._gauges())]
        # What is told of this worker is what would be left of it if it died now.
        mine = await self._publish()
        return [mine, *await asyncio.to_thread(self._others, self._folder, self._seat)]

    async def seen(self) -> list[Told]:
        """Return the same, but do not promise anybody that it outlives this worker: nothing is written."""
        mine = Told(self._figures.taken(), self._gauges(), self._seat or 0)
        if self._folder is None or self._seat is None:
            return [mine]
        return [mine, *await asyncio.to_thread(self._others, self._folder, self._seat)]

    @property
    def place(self) -> Path | None:
        """The folder with this worker's number in it, for what else the workers tell each other."""
        if self._folder is None or self._seat is None:
            return None
        return self._folder / str(self._seat)

    async def _keep_publishing(self) -> None:
        while True:
            await self._publish()
            await asyncio.sleep(PUBLISH_SECONDS)

    async def _publish(self) -> Told:
        assert self._folder is not None  # noqa: S101 - narrows the type
        async with self._writing:
            told = Told(self._figures.taken(), self._gauges(), self._seat or 0)
            try:
                await asyncio.to_thread(_replace, self._folder / f"{told.seat}.json", told)
            except OSError as error:
                if not self._failing:
                    log.warning("figures cannot be written: %s", error.strerror)
                self._failing = True
            else:
                self._failing = False
            return told

    def _sit_down(self, folder: Path) -> Counts | None:
        """Take the first free seat; return what its former holder counted."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for seat in range(MOST_SEATS):
            lock = _locked(folder / f"{seat}.lock", os.O_CREAT)
            if lock is not None:
                self._seat, self._lock = seat, lock
                told = _read(folder / f"{seat}.json")
                return None if told is None else told.counts
        raise OSError(0, "too many workers")

    def _others(self, folder: Path, mine: int) -> list[Told]:
        others = []
        for file in sorted(folder.glob("*.json")):
            told = None if file.stem == str(mine) else _read(file)
            if told is not None:
                gone = _is_free(file.with_suffix(".lock"))
                others.append(Told(told.counts, None if gone else told.gauges, told.seat))
        return others

    def __repr__(self) -> str:
        return f"<Board seat {self._seat}>"


def _locked(file: Path, flags: int = 0) -> int | None:
    """Return a descriptor that holds the lock, or None when somebody else does."""
    lock = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _is_free(file: Path) -> bool:
    """Tell whether nobody holds the lock. Shared, so that two who look do not see each other."""
    try:
        lock = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _replace(file: Path, told: Told) -> None:
    """Write a file so that whoever reads it finds the old or the new one, whole."""
    beside = file.with_suffix(".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as out:
        json.dump({"counts": told.counts.packed(), "gauges": told.gauges}, out, separators=(",", ":"))
    os.replace(beside, file)


def _read(file: Path) -> Told | None:
    """Return what a worker told; None for what cannot be read, such as a former version's."""
    try:
        if file.stat().st_size > MOST_BYTES:
            return None
        told = json.loads(file.read_bytes())
        return Told(Counts.unpacked(told["counts"]), dict(told["gauges"]), int(file.stem))
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None
