"""`python -m benchmarks.crowds`: what do others notice of bad clients, and what stays when these have gone?

Each crowd meets a gateway started for it alone. While it is there a good client makes fresh calls: one that
the gateway answers itself, one through a mount to another upstream than the crowd's, one to the crowd's own.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benchmarks import command, crowd_upstream, gateway, leavers, report
from benchmarks.bad_peers import CLOSED_SECONDS, KINDS, NAMED, Kind, Peer, Visitor, crowd
from benchmarks.machine import Cores, reserved
from benchmarks.watch import HEALTH, OTHER, State, Watch, seconds_until

VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "httptools", "h2")
LEAVERS = "leavers"
NAMES = (*NAMED, LEAVERS)
PROMISED_PEERS = 1000
TRIES = 20
# Fresh calls are answered within so much while a crowd is there, and so long after it left.
MOST_SECONDS = 2.0
# What closes a connection looks at the clock now and then.
CLOSING_SLACK_SECONDS = 1.0
RETURN_SECONDS = 10.0
# Pools that grow when they are first needed and then stay: threads of plain views and of the database.
POOL_THREADS = 40
SPARE_FILES = 4
# UPSTREAM_MAX_CONNECTIONS of a gateway that is told nothing.
USUAL_PLACES = 1000


@dataclass(frozen=True)
class Burden:
    """One crowd: what a good client, the operator and the machine noticed of it, times in seconds."""

    server: str
    kind: Kind
    peers: int
    places: int
    settled: float
    health: float
    other: float
    same: float
    peer_kilobytes: float
    lasted: Sequence[float]
    healthy_after: float
    returned_after: float
    before: State
    after: State

    @property
    def failings(self) -> list[str]:
        """Return what falls short of the promise."""
        limit = self.kind.closed_by
        told = {
            "slow": max(self.health, self.other) > MOST_SECONDS,
            "not closed": limit is not None and len(self.lasted) < self.peers,
            "closed late": limit is not None and max(self.lasted, default=0) > limit + CLOSING_SLACK_SECONDS,
            "slow afterwards": self.healthy_after > MOST_SECONDS,
            "calls left": self.after.calls > self.before.calls,
            "files left": self.after.files > self.before.files + SPARE_FILES,
            "threads left": self.after.threads > self.before.threads + POOL_THREADS,
        }
        return [name for name, wrong in told.items() if wrong]


@dataclass(frozen=True)
class Stage:
    """What every crowd finds: two cores, an account, the upstream of the good and that of the bad."""

    folder: Path
    cores: Cores
    account: gateway.Account
    good: str
    bad: str

    @contextmanager
    def watched(self, server: str, places: int) -> Iterator[tuple[Watch, Visitor]]:
        """Run a gateway until the block ends."""
        settings = {"UPSTREAM_MAX_CONNECTIONS": str(places)}
        with gateway.served(
            server, self.account, self.folder, self.cores.measured, self.good, self.bad, **settings
        ) as served:
            yield Watch(served, self.good, self.bad), Visitor(served.url.partition("//")[2], served.headers)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.crowds", "Bad clients in crowds: what do others notice of them?")
    parser.add_argument(
        "--count",
        type=command.whole(1, 4000),
        default=200,
        metavar="N",
        help=f"peers of each kind (200; the promise is about {PROMISED_PEERS:,})",
    )
    parser.add_argument(
        "--only", type=_names, default=NAMES, metavar="NAME,...", help=f"of {', '.join(NAMES)}"
    )
    parser.add_argument("--server", choices=gateway.SERVERS, help="this one alone")
    return parser.parse_args(arguments)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'}: choose of {', '.join(NAMES)}")
    return names


def main(asked: argparse.Namespace, folder: Path) -> int:
    cores, machine = reserved(VERSIONS, connections=asked.count)
    account = gateway.Account.made(folder)
    burdens: list[Burden] = []
    left: list[leavers.Left] = []
    with crowd_upstream.served(folder, cores.load) as good, crowd_upstream.served(folder, cores.load) as bad:
        stage = Stage(folder, cores, account, good, bad)
        for server in [asked.server] if asked.server else gateway.SERVERS:
            for kind in (kind for kind in KINDS if kind.name in asked.only):
                burdens += [burden(stage, server, kind, asked.count, n) for n in _places(kind, asked.count)]
            if LEAVERS in asked.only:
                left += _leavers(stage, server)
    tables = [*([_table(burdens)] if burdens else []), *([leavers.table(left)] if left else [])]
    report.show(machine, tables, NOTES)
    report.save(asked.markdown, report.markdown(machine, tables, NOTES))
    told = {"crowds": [_raw(one) for one in burdens], "leavers": [_finite(asdict(one)) for one in left]}
    report.save(asked.json, {"machine": machine, **told})
    short = any(one.failings for one in burdens) or any(one.verdict == "short" for one in left)
    return command.SHORT if short else command.FINE


def _places(kind: Kind, count: int) -> tuple[int, ...]:
    """A crowd that takes up every upstream place is met a second time by a gateway with more of them."""
    held = kind.calls * count
    return (USUAL_PLACES, 2 * held) if held >= USUAL_PLACES else (USUAL_PLACES,)


def _leavers(stage: Stage, server: str) -> list[leavers.Left]:
    with stage.watched(server, USUAL_PLACES) as (watch, visitor):
        return uvloop.run(leavers.measured(server, watch, visitor))


def burden(stage: Stage, server: str, kind: Kind, count: int, places: int) -> Burden:
    """Let one crowd meet a fresh gateway."""
    report.progress(f"gateway on {server}: {count} × {kind.title}, {places} places")
    with stage.watched(server, places) as (watch, visitor):
        return uvloop.run(_burden(watch, visitor, server, kind, count, places))


async def _burden(watch: Watch, visitor: Visitor, server: str, kind: Kind, count: int, places: int) -> Burden:
    await watch.worst(2)
    before = watch.state()
    async with crowd(watch.address, kind, kind.says(visitor), count) as peers:
        settled = await watch.settled(lambda calls: calls >= min(kind.calls * count, places))
        during = await watch.worst(TRIES)
        held = watch.state()
        if kind.closed_by is not None:
            await seconds_until(lambda: len(_lasted(peers)) == count, kind.closed_by + 2)
        lasted = _lasted(peers)
    healthy_after = max(await watch.fresh(HEALTH), await watch.fresh(OTHER))
    returned_after = await seconds_until(lambda: _returned(before, watch.state()), RETURN_SECONDS)
    return Burden(
        server=server,
        kind=kind,
        peers=count,
        places=places,
        settled=settled,
        health=during.health,
        other=during.other,
        same=during.same,
        peer_kilobytes=(held.resident_mb - before.resident_mb) * 1024 / count,
        lasted=lasted,
        healthy_after=healthy_after,
        returned_after=returned_after,
        before=before,
        after=watch.state(),
    )


def _lasted(peers: Sequence[Peer]) -> list[float]:
    """Return how long those connections stood that the gateway has closed."""
    return [peer.lasted for peer in peers if peer.lasted is not None]


def _returned(before: State, now: State) -> bool:
    return now.calls <= before.calls and now.files <= before.files + SPARE_FILES


NOTES = (
    f"Worst of {TRIES} fresh calls while the crowd stands: one that the gateway answers itself, one through "
    "a mount to another upstream than the crowd's, one to the crowd's own (shown, not judged). Before, all "
    "come at the same moment: settled is when a call is quick again. Memory is what the gateway's processes "
    "grew by, for each peer. Returned: descriptors and calls upstream are back.",
    f"Must hold: {MOST_SECONDS:g} s for the first two, while the crowd stands and when it has left; slow "
    f"heads and idle connections are closed by {CLOSED_SECONDS:g} s; nothing stays.",
)


def _table(burdens: Sequence[Burden]) -> report.Table:
    columns = (
        *("server", "peers", "places", "settled", "health", "other upstream", "same upstream"),
        *("KB a peer", "closed by the gateway", "healthy after", "returned after", ""),
    )
    return report.Table("Crowds", columns, tuple(_row(one) for one in burdens), left=2)


def _row(one: Burden) -> tuple[str, ...]:
    closed = f"{len(one.lasted)} by {max(one.lasted):.1f} s" if one.lasted else "none"
    return (
        one.server,
        f"{one.peers:,} × {one.kind.title}",
        f"{one.places:,}" if one.kind.calls else "",
        *(_seconds(value) for value in (one.settled, one.health, one.other, one.same)),
        report.number(one.peer_kilobytes),
        closed if one.kind.closed_by is not None or one.lasted else "",
        _seconds(one.healthy_after),
        _seconds(one.returned_after),
        ", ".join(one.failings) or "ok",
    )


def _seconds(value: float) -> str:
    return "failed" if value == float("inf") else f"{value:.2f} s"


def _raw(one: Burden) -> dict[str, object]:
    told = {name: value for name, value in vars(one).items() if name not in ("kind", "before", "after")}
    states = {"before": asdict(one.before), "after": asdict(one.after)}
    return {"kind": one.kind.name, **_finite(told), **states, "failings": one.failings}


def _finite(told: Mapping[str, object]) -> dict[str, object]:
    """JSON knows no infinity: what never came is null."""
    return {name: None if value == float("inf") else value for name, value in told.items()}


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
