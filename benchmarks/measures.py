"""What is measured of a subject: a rate of small calls, a large body each way, latency at a steady rate."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

import uvloop

from benchmarks import usage, wrk
from benchmarks.calls import paced
from benchmarks.figures import percentile
from benchmarks.nginx import FILE_BYTES
from benchmarks.processes import Failure, Process
from benchmarks.stream import Line, Transfer, head
from benchmarks.subjects import Running, Stage

WARM_SECONDS = 1.0
LATENCY_RATE = 200.0
MOST_TRANSFERS = 40
MEGABYTE = 1024 * 1024


class Kind(StrEnum):
    SMALL = "small"
    DOWNLOAD = "download"
    UPLOAD = "upload"
    LATENCY = "latency"


@dataclass(frozen=True)
class Measure:
    """One round of one subject: its figure, and what else was seen on the way.

    `value` is calls a second, MB/s, or a median in ms; `rate` calls or MB a second; `busy` the share of a
    core that the subject used.
    """

    value: float
    rate: float
    busy: float | None = None
    more: Mapping[str, float] = field(default_factory=dict)

    @property
    def core_rate(self) -> float | None:
        """Calls or MB for a second of processor time: other work on the machine changes it least."""
        return self.rate / self.busy if self.busy else None


def measured(kind: Kind, stage: Stage, subject: Running, seconds: float) -> Measure:
    """Measure one subject for so many seconds. Raises Failure when a call goes wrong."""
    return MEASURES[kind](stage, subject, seconds)


def _small(stage: Stage, subject: Running, seconds: float) -> Measure:
    url = f"{subject.files}/small"
    wrk.load(url, subject.headers, WARM_SECONDS, stage.cores.load)
    with Busy(subject.process) as busy:
        seen = wrk.load(url, subject.headers, seconds, stage.cores.load)
    more = {"median_ms": seen.median_seconds * 1e3, "p99_ms": seen.p99_seconds * 1e3, "calls": seen.calls}
    return Measure(seen.rate, seen.rate, busy.share, more)


def _download(stage: Stage, subject: Running, seconds: float) -> Measure:
    parts = urlsplit(subject.files)
    with Line(subject.files, subject.headers) as line:
        line.download(f"{parts.path}/small")
        return _transfers(subject.process, seconds, lambda: line.download(f"{parts.path}/file"))


def _upload(stage: Stage, subject: Running, seconds: float) -> Measure:
    body = stage.folder / "files" / "file"
    target = urlsplit(subject.sink).path or "/sink"
    with Line(subject.sink, subject.headers) as line:
        return _transfers(subject.process, seconds, lambda: line.upload(target, body))


def _transfers(process: Process | None, seconds: float, once: Callable[[], Transfer]) -> Measure:
    """Repeat a transfer until the time is over."""
    before = _resident(process)
    done: list[Transfer] = []
    with Busy(process) as busy:
        while not done or (sum(one.seconds for one in done) < seconds and len(done) < MOST_TRANSFERS):
            done.append(once())
    if any(one.size != FILE_BYTES for one in done):
        raise Failure(f"a body of {FILE_BYTES} bytes arrived with another length")
    growth = max(0, usage.peak_resident_bytes(process) - before) if process else 0
    rate = sum(one.size for one in done) / sum(one.seconds for one in done) / MEGABYTE
    return Measure(rate, rate, busy.share, {"growth_mb": growth / MEGABYTE, "transfers": len(done)})


def _resident(process: Process | None) -> int:
    if process is None:
        return 0
    usage.forget_peak(process)
    return usage.resident_bytes(process)


def _latency(stage: Stage, subject: Running, seconds: float) -> Measure:
    parts = urlsplit(subject.files)
    address = (parts.hostname or "", parts.port or 80)
    request = head("GET", f"{parts.path}/small", parts.netloc, subject.headers)
    with Busy(subject.process) as busy, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        latencies = runner.run(paced(address, request, LATENCY_RATE, seconds))
    more = {"p99_ms": percentile(latencies, 0.99) * 1e3, "calls": len(latencies)}
    return Measure(percentile(latencies, 0.5) * 1e3, LATENCY_RATE, busy.share, more)


MEASURES: Mapping[Kind, Callable[[Stage, Running, float], Measure]] = {
    Kind.SMALL: _small,
    Kind.DOWNLOAD: _download,
    Kind.UPLOAD: _upload,
    Kind.LATENCY: _latency,
}


class Busy:
    """Which share of one core a process uses inside the block; far below 1 it was not the one to wait for."""

    def __init__(self, process: Process | None) -> None:
        self._process = process
        self.share: float | None = None

    def __enter__(self) -> "Busy":
        self._start = time.perf_counter()
        self._used = usage.processor_seconds(self._process) if self._process else 0.0
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            used = usage.processor_seconds(self._process) - self._used
            self.share = used / (time.perf_counter() - self._start)
