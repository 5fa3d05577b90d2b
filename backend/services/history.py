"""The last quarter of an hour, five seconds at a time: each worker notes what it did, anybody can read it.

A sample is what one worker did in five seconds; they begin at the same moment in all workers of a machine,
so those of several can be laid together (points.py). A worker keeps its own in memory, and beside its seat
on the board in a file with a line for each, where those who draw pictures read them (board.py).
"""

import asyncio
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from backend.services.counts import SLOT_SECONDS, Slot
from backend.services.figures import Figures, end_of_slot

log = logging.getLogger("gateway.figures")

KEPT_SECONDS = 900.0
KEPT = int(KEPT_SECONDS / SLOT_SECONDS)
ENDING = ".past"
FEW = 4
# A line is 1 to 4 KB: the last few lie in the tail, all that a worker keeps in far less than the most.
TAIL_BYTES = 64 << 10
MOST_BYTES = 16 << 20

Gauges = dict[str, Any]


def number_of(moment: float) -> int:
    """Return the number of the five seconds that a moment of the machine's clock lies in."""
    return int(moment // SLOT_SECONDS)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one worker did in the five seconds with this number, and what it was doing at their end.

    `durations` and `owns` are packed sketches; of `gauges` only what goes up and down is kept.
    """

    number: int
    requests: int
    received: int
    sent: int
    faults: dict[str, int]
    durations: dict[str, int]
    owns: dict[str, int]
    gauges: Gauges

    @classmethod
    def of(cls, number: int, slot: Slot, gauges: Gauges) -> "Sample":
        *_, durations, owns, faults = slot.packed()
        return cls(number, slot.requests, slot.received, slot.sent, faults, durations, owns, gauges)

    def line(self) -> bytes:
        told = [getattr(self, name) for name in self.__slots__]
        return json.dumps(told, separators=(",", ":")).encode("ascii") + b"\n"

    @classmethod
    def read(cls, line: bytes) -> "Sample | None":
        """Return None for what is no whole sample, such as the line that a killed worker left."""
        try:
            number, requests, received, sent, *rest = json.loads(line)
            if not all(isinstance(part, dict) for part in rest):
                return None
            return cls(int(number), int(requests), int(received), int(sent), *rest)
        except (ValueError, TypeError):
            return None


class History:
    """Notes this worker's samples while it runs, at next to no cost; `seen` reads those of all workers."""

    def __init__(
        self, figures: Figures, gauges: Callable[[], Gauges], clock: Callable[[], float] = perf_counter
    ) -> None:
        self._figures = figures
        self._gauges = gauges
        self._clock = clock
        self._lines: deque[bytes] = deque(maxlen=KEPT)
        self._file: Path | None = None
        self._written = 0
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self, place: Path | None) -> None:
        """Begin to note; beside `place`, after what its former holder noted there."""
        if place is not None:
            self._file = place.with_suffix(ENDING)
            self._lines.extend(await asyncio.to_thread(lambda file: [*_lines(file)], self._file))
            self._written = len(self._lines)
        self._task = asyncio.create_task(self._keep_noting(), name="history")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def seen(self, since: int) -> list[Sample]:
        """Return the samples of all workers whose number is `since` or later."""
        return await asyncio.to_thread(self._seen, since, [*self._lines])

    async def note(self, ended: float) -> None:
        """Note the five seconds that ended at this moment."""
        slot = self._figures.slot_between(ended - SLOT_SECONDS, ended)
        line = Sample.of(number_of(ended - SLOT_SECONDS / 2), slot, self._gauges()).line()
        self._lines.append(line)
        if self._file is not None:
            await asyncio.to_thread(self._write, self._file, line, [*self._lines])

    async def _keep_noting(self) -> None:
        end = end_of_slot(self._clock())
        while True:
            await asyncio.sleep(max(0.0, end - self._clock()))
            if self._clock() >= end:  # a loop's timers may be early by a millisecond
                await self.note(end)
                end = end_of_slot(self._clock())

    def _write(self, file: Path, line: bytes, kept: list[bytes]) -> None:
        """Add a line; now and then what is too old is left behind."""
        try:
            if self._written >= 2 * KEPT:
                beside = file.with_suffix(f"{ENDING}-new")
                _put(beside, b"".join(kept), os.O_TRUNC)
                os.replace(beside, file)
                self._written = len(kept)
            else:
                _put(file, line, os.O_APPEND)
                self._written += 1
        except OSError as error:
            if not self._failing:
                log.warning("the last minutes cannot be written: %s", error.strerror)
            self._failing = True
        else:
            self._failing = False

    def _seen(self, since: int, mine: list[bytes]) -> list[Sample]:
        lines, now = mine, number_of(self._clock())
        if self._file is not None:
            # Few samples are looked for every few seconds, all of them once.
            most = TAIL_BYTES if since > now - FEW else MOST_BYTES
            for file in sorted(self._file.parent.glob(f"*{ENDING}")):
                if file != self._file:
                    lines += _lines(file, most)
        samples = map(Sample.read, lines)
        return [sample for sample in samples if sample is not None and since <= sample.number <= now]

    def __repr__(self) -> str:
        return f"<History {len(self._lines)} samples>"


def _put(file: Path, content: bytes, how: int) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | how, 0o600)
    with open(descriptor, "wb") as out:
        out.write(content)


def _lines(file: Path, most: int = MOST_BYTES) -> Iterator[bytes]:
    """Yield the last whole lines of a file, of at most so many bytes together."""
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(0, size - most))
            content = opened.read(most)
    except OSError:
        return
    lines = content.splitlines(keepends=True)
    yield from lines[1:] if size > most else lines
