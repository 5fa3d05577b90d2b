"""Clients that go: how long their calls upstream stay, and what the log says of them."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks import bad_peers, report
from benchmarks.bad_peers import Kind, Visitor, crowd
from benchmarks.watch import Watch, seconds_until

LEAVERS = 100
MOST_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
MOMENTS = {
    "before the head": "silent-upstream",
    "amid the answer": "event-stream",
    "amid the upload": "upload-stops",
}
# RFC 9113, section 6.4: RST_STREAM of stream 1, CANCEL.
RESET = bytes.fromhex("00000403000000000100000008")


@dataclass(frozen=True)
class Left:
    """Clients that went at one moment: seconds until no call upstream was left."""

    server: str
    how: str
    moment: str
    seconds: float
    told: int
    alarms: int

    @property
    def verdict(self) -> str:
        return "ok" if self.seconds <= MOST_SECONDS and self.told == LEAVERS and not self.alarms else "short"


def ways() -> Iterator[tuple[str, str, Kind, bytes]]:
    """Every way to leave: protocol and manner, moment, what is opened, and the last words."""
    for moment, name in MOMENTS.items():
        yield "HTTP/1.1", moment, bad_peers.NAMED[name], b""
        yield "HTTP/2, closed", moment, bad_peers.NAMED[f"h2-{name}"], b""
        yield "HTTP/2, reset", moment, bad_peers.NAMED[f"h2-{name}"], RESET


async def measured(server: str, watch: Watch, visitor: Visitor) -> list[Left]:
    """Let clients leave at every moment, one way after the other."""
    return [await _left(server, watch, visitor, *way) for way in ways()]


async def _left(
    server: str, watch: Watch, visitor: Visitor, how: str, moment: str, kind: Kind, last: bytes
) -> Left:
    report.progress(f"gateway on {server}: {LEAVERS} leave {moment}, {how}")
    logged = len(watch.log)
    async with crowd(watch.address, kind, kind.says(visitor), LEAVERS) as peers:
        await seconds_until(lambda: watch.calls() == LEAVERS, PATIENCE_SECONDS)
        for peer in peers:
            peer.say(last) if last else peer.leave()
        seconds = await seconds_until(lambda: watch.calls() == 0, PATIENCE_SECONDS)
    await asyncio.sleep(MOST_SECONDS)
    lines = watch.log[logged:].splitlines()
    told = sum(" 499 " in line for line in lines)
    alarms = sum(bool(re.search(r" (WARNING|ERROR|CRITICAL) |Traceback", line)) for line in lines)
    return Left(server, how, moment, seconds, told, alarms)


def table(left: Sequence[Left]) -> report.Table:
    columns = ("server", f"{LEAVERS} leave", "over", "no call upstream after", "logged as 499", "alarms", "")
    rows = tuple(
        (one.server, one.moment, one.how, f"{one.seconds:.2f} s", str(one.told), str(one.alarms), one.verdict)
        for one in left
    )
    return report.Table("Leavers", columns, rows, left=3)
