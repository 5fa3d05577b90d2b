"""`python -m benchmarks.dashboard`: does a dashboard left open grow, or the gateway behind it?

Chromium shows the page under a light load. Every minute its garbage is collected and what is left is written
down beside the memory of the gateway. The verdict compares the first look after the warm-up with the last.
"""

import argparse
import asyncio
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from benchmarks import command, gateway, report, upstream, usage
from benchmarks.calls import paced
from benchmarks.figures import percentile
from benchmarks.machine import Missing, reserved
from benchmarks.processes import Failure
from benchmarks.stream import head
from benchmarks.viewers import PageState, Viewers, watching

VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "playwright")
LOOK_SECONDS = 60.0
# A shorter run is looked at as often, so that its second half has more than an end.
LEAST_LOOKS = 6
# Page and gateway keep a quarter of an hour; before it is full, they must grow.
WARM_SECONDS = 16 * 60.0
MOST_GROWTH = 0.05
SPARE_MB = 2.0
SPARE_FILES = 4
SPARE_NODES = 100
MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Look:
    """What page and gateway held so many seconds after the start, and the calls since the look before."""

    seconds: float
    calls: int
    median_ms: float
    resident_mb: float
    open_files: int
    page: PageState


@dataclass(frozen=True)
class Watched:
    """All looks at one gateway, and after how many seconds they count."""

    server: str
    warm_seconds: float
    looks: Sequence[Look]

    @property
    def first(self) -> Look:
        """The first that counts; the last of all where none but it does."""
        return next((one for one in self.looks if one.seconds >= self.warm_seconds), self.looks[-1])

    @property
    def last(self) -> Look:
        return self.looks[-1]

    @property
    def verdict(self) -> str:
        first, last = self.first, self.last
        flat = (
            _flat(first.resident_mb, last.resident_mb)
            and _flat(first.page.heap_mb, last.page.heap_mb)
            and last.open_files <= first.open_files + SPARE_FILES
            and last.page.nodes <= first.page.nodes + SPARE_NODES
        )
        return "ok" if flat else "short"


def _flat(before_mb: float, after_mb: float) -> bool:
    return after_mb <= before_mb + max(SPARE_MB, before_mb * MOST_GROWTH)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.dashboard", "Leave the dashboard open; look for growth.")
    parser.add_argument("--minutes", type=command.between(0.1, 1440), default=1.0, metavar="M")
    parser.add_argument(
        "--rate", type=command.between(1, 2000), default=20.0, metavar="N", help="calls a second meanwhile"
    )
    parser.add_argument(
        "--readers", type=command.whole(0, 100), default=2, metavar="N", help="of the stream, beside the page"
    )
    parser.add_argument("--server", choices=gateway.SERVERS, default="granian")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    if not (shutil.which("chromium") or shutil.which("chromium-browser")):
        raise Missing("Debian packages: apt-get install chromium")
    cores, machine = reserved(VERSIONS, packages=("playwright",))
    account = gateway.Account.made(folder)
    with (
        upstream.served(folder, cores.load) as url,
        gateway.served(asked.server, account, folder, cores.measured, url, url) as served,
        watching(served.url, asked.readers, page=True) as viewers,
    ):
        seconds = asked.minutes * 60
        looks = list(_looks(served, viewers, asked.rate, seconds))
        if viewers.events < asked.readers * seconds / 2:
            raise Failure("the dashboard's stream stood still")
    watched = Watched(asked.server, min(WARM_SECONDS, seconds / 2), looks)
    notes = [
        f"{asked.rate:g} calls a second, the page in Chromium and {asked.readers} readers of the stream. "
        f"What counts begins after {watched.warm_seconds / 60:.1f} minutes; from there to the end, memory "
        f"may grow by {MOST_GROWTH:.0%} or {SPARE_MB:g} MB, whichever is more."
    ]
    report.show(machine, [_table(watched)], notes)
    report.save(asked.markdown, report.markdown(machine, [_table(watched)], notes))
    report.save(asked.json, {"machine": machine, "watched": asdict(watched)})
    return command.SHORT if watched.verdict == "short" else command.FINE


def _looks(served: gateway.Served, viewers: Viewers, rate: float, seconds: float) -> Iterator[Look]:
    """Call at a steady rate, and look at page and gateway in between. Raises Failure."""
    parts = urlsplit(served.url)
    request = head("GET", f"{gateway.FILES}/small", parts.netloc, served.headers)
    address = (parts.hostname or "", parts.port or 80)
    step = min(LOOK_SECONDS, seconds / LEAST_LOOKS)
    start = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        while time.monotonic() - start < seconds:
            latencies = runner.run(paced(address, request, rate, step))
            page = viewers.call(viewers.page_state())
            if page is None:
                raise Failure("there is no page to look at")
            look = Look(
                time.monotonic() - start,
                len(latencies),
                percentile(latencies, 0.5) * 1e3,
                usage.largest_resident_bytes(served.process) / MEGABYTE,
                usage.open_files(served.process),
                page,
            )
            report.progress(" | ".join(_cells(look)))
            yield look


def _cells(look: Look) -> tuple[str, ...]:
    return (
        f"{look.seconds / 60:.1f} min",
        f"{look.calls:,}",
        report.with_unit(look.median_ms, "ms"),
        f"{look.resident_mb:.1f} MB",
        str(look.open_files),
        f"{look.page.heap_mb:.2f} MB",
        f"{look.page.nodes:,}",
    )


def _table(watched: Watched) -> report.Table:
    first, last = watched.first, watched.last
    rows = [(*_cells(look), "from here" if look is first else "") for look in watched.looks]
    grown = (
        "grown",
        "",
        "",
        f"{last.resident_mb - first.resident_mb:+.1f} MB",
        f"{last.open_files - first.open_files:+}",
        f"{last.page.heap_mb - first.page.heap_mb:+.2f} MB",
        f"{last.page.nodes - first.page.nodes:+}",
        watched.verdict,
    )
    columns = ("after", "calls", "median", "gateway resident", "open files", "page heap", "page nodes", "")
    return report.Table(f"The dashboard left open: {watched.server}", columns, (*rows, grown))


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
