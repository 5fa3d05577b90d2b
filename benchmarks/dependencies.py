"""`python -m benchmarks.dependencies`: what is noticed when Redis or the database is away.

A gateway under a load of forwarded calls, sign-ins, polls of token_status and calls with an ended token,
while a Redis and a PostgreSQL of its own are killed, held and restarted, and its SQLite file is locked.
"""

import argparse
import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from benchmarks import command, gateway, report
from benchmarks.calls import Address, Connection, Told, offered
from benchmarks.figures import Limit, at_most, percentile
from benchmarks.machine import reserved
from benchmarks.service import Service
from benchmarks.stores import own_postgres, own_redis
from benchmarks.stream import head

VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "redis", "limits", "psycopg")
# Calls a second. Sign-ins are dear: argon2 takes a good part of a core.
FORWARDED, SIGN_INS, POLLS, ENDED = 50.0, 2.0, 10.0, 5.0
SETTLE_SECONDS = 2.0
RECOVERY_SECONDS = 8.0  # observed after everything is back
ROUNDS = 30  # sign-outs whose way to another gateway is timed
OTHER_EMAIL, THIRD_EMAIL = "other@gateway.local", "third@gateway.local"
WORK = f"{gateway.FILES}/x"
MILLISECONDS = 1000

NONE = at_most(0, None, "calls")
KNOWN = at_most(50, 10, "ms")
BOUNDED = at_most(6, None, "s")
BACK = at_most(6, 3, "s")


@dataclass(frozen=True)
class Outage:
    """What callers saw around one outage; `back_seconds` from the return of what was away."""

    what: str
    forwarded_failed: int
    forwarded_p99_ms: float
    polls_failed: int
    opened: int
    sign_ins_refused: int
    sign_ins_rude: int
    slowest_sign_in_seconds: float
    back_seconds: float

    def lines(self) -> list[tuple[str, float, Limit | None]]:
        return [
            (f"{self.what}: forwarded calls that failed", self.forwarded_failed, NONE),
            (f"{self.what}: p99 of forwarded calls", self.forwarded_p99_ms, None),
            (f"{self.what}: token_status that failed", self.polls_failed, NONE),
            (f"{self.what}: ended tokens let in", self.opened, NONE),
            (f"{self.what}: sign-ins refused with 503 and Retry-After", self.sign_ins_refused, None),
            (f"{self.what}: sign-ins that failed in another way", self.sign_ins_rude, NONE),
            (f"{self.what}: slowest sign-in", self.slowest_sign_in_seconds, BOUNDED),
            (f"{self.what}: last failure after the return", self.back_seconds, BACK),
        ]


@dataclass(frozen=True)
class Scene:
    """A gateway under load: where it is, and the requests of the load."""

    address: Address
    forwarded: bytes
    poll: bytes
    ended: bytes
    sign_in: bytes


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.dependencies", "Take Redis and the database away under load.")
    parser.add_argument(
        # After 30 s without its database the gateway judges no token any more, as it says.
        "--seconds",
        type=command.between(1, 25),
        default=10.0,
        metavar="S",
        help="of each outage",
    )
    parser.add_argument("--server", choices=gateway.SERVERS, default="hypercorn")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    cores, machine = reserved(VERSIONS, ("redis-server", "pg_ctl"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = Run(asked.server, folder, cores.measured, asked.seconds)
        known = runner.run(run.told())
        outages = runner.run(run.redis()) + runner.run(run.postgresql()) + runner.run(run.sqlite())
    table = _table(known, outages)
    notes = [
        f"A second: {FORWARDED:g} forwarded calls, {SIGN_INS:g} sign-ins, {POLLS:g} token_status, {ENDED:g} "
        f"calls with an ended token; each outage {asked.seconds:g} s, and {RECOVERY_SECONDS:g} s of recovery."
    ]
    report.show(machine, [table], notes)
    report.save(asked.markdown, report.markdown(machine, [table], notes))
    found = {"known_ms": known, "outages": [asdict(one) for one in outages]}
    report.save(asked.json, {"machine": machine, **found})
    return command.SHORT if any(row[-1] == "short" for row in table.rows) else command.FINE


@dataclass(frozen=True)
class Run:
    """What every scene of a run shares."""

    server: str
    folder: Path
    core: int
    seconds: float

    async def told(self) -> list[float]:
        """Sign out at one gateway, ask at another until it knows; return the milliseconds. Raises Failure."""
        folder = self._folder("told")
        with own_redis() as redis, contextlib.ExitStack() as stack:
            account = gateway.Account.made(folder)
            service = Service()
            await service.start()
            settings = {"REDIS_URL": redis.url, "GATEWAY_LOGIN_LIMIT": "100000/minute"}
            served = [
                stack.enter_context(
                    gateway.served(
                        self.server,
                        account,
                        self._folder(f"told/{n}"),
                        self.core,
                        service.url,
                        service.url,
                        **settings,
                    )
                )
                for n in range(2)
            ]
            await asyncio.sleep(SETTLE_SECONDS)
            urls = served[0].url, served[1].url
            known = [await _known_elsewhere(*urls, account) for _ in range(ROUNDS)]
            await service.stop()
            return known

    async def redis(self) -> list[Outage]:
        """Kill and hold a Redis."""
        folder = self._folder("redis")
        with own_redis() as redis:
            account = gateway.Account.made(folder)
            async with self._scene(folder, account, REDIS_URL=redis.url) as scene:
                killed = await self._outage(
                    scene, "Redis killed", _at_once(redis.kill), _at_once(redis.start)
                )
                held = await self._outage(scene, "Redis hangs", _at_once(redis.hold), _at_once(redis.resume))
        return [killed, held]

    async def postgresql(self) -> list[Outage]:
        """Restart a PostgreSQL, and stop it for a while."""
        folder = self._folder("postgresql")
        with own_postgres() as postgres:
            account = gateway.Account.made(folder, postgres.url)
            async with self._scene(folder, account) as scene:
                restarted = await self._outage(
                    scene, "PostgreSQL restarted", _beside(postgres.restart), None, seconds=0.0
                )
                stopped = await self._outage(
                    scene, "PostgreSQL stopped", _beside(postgres.stop), _beside(postgres.start)
                )
        return [restarted, stopped]

    async def sqlite(self) -> list[Outage]:
        """Hold the write lock of the database file from outside."""
        folder = self._folder("sqlite")
        account = gateway.Account.made(folder)
        locker = sqlite3.connect(folder / "gateway.db", isolation_level=None, timeout=20)
        with contextlib.closing(locker):
            async with self._scene(folder, account) as scene:
                lock = _at_once(lambda: locker.execute("BEGIN IMMEDIATE"))
                unlock = _at_once(lambda: locker.execute("ROLLBACK"))
                return [await self._outage(scene, "SQLite locked", lock, unlock)]

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.asynccontextmanager
    async def _scene(self, folder: Path, account: gateway.Account, **settings: str) -> AsyncIterator[Scene]:
        """A gateway with somebody who works, somebody who signs in and somebody who has signed out."""
        for email in (OTHER_EMAIL, THIRD_EMAIL):
            account.add(folder, email)
        service = Service()
        await service.start()
        settings["GATEWAY_LOGIN_LIMIT"] = "100000/minute"
        try:
            with gateway.served(
                self.server, account, folder, self.core, service.url, service.url, **settings
            ) as served:
                parts = urlsplit(served.url)
                ended = gateway.token(served.url, account, THIRD_EMAIL)
                gateway.token(served.url, account, THIRD_EMAIL)
                body = json.dumps({"email": OTHER_EMAIL, "password": account.password}).encode()
                sign_in = {"Content-Type": "application/json"}
                yield Scene(
                    (parts.hostname or "", parts.port or 80),
                    head("GET", WORK, parts.netloc, served.headers),
                    head("GET", "/api/token_status", parts.netloc, served.headers),
                    head("GET", WORK, parts.netloc, {"Authorization": f"Bearer {ended}"}),
                    head("POST", "/api/login", parts.netloc, sign_in, len(body)) + body,
                )
        finally:
            await service.stop()

    async def _outage(
        self,
        scene: Scene,
        what: str,
        away: Callable[[], Awaitable[object]],
        back: Callable[[], Awaitable[object]] | None,
        *,
        seconds: float | None = None,
    ) -> Outage:
        """Load the gateway while something goes away and comes back. Raises Failure for a call unanswered."""
        report.progress(what)
        out = self.seconds if seconds is None else seconds
        returned = 0.0

        async def events() -> None:
            nonlocal returned
            await asyncio.sleep(SETTLE_SECONDS)
            await away()
            await asyncio.sleep(out)
            if back is not None:
                await back()
            returned = time.perf_counter()

        total = SETTLE_SECONDS + out + RECOVERY_SECONDS
        forwarded, polls, ended, sign_ins, _ = await asyncio.gather(
            offered(scene.address, scene.forwarded, FORWARDED, total),
            offered(scene.address, scene.poll, POLLS, total),
            offered(scene.address, scene.ended, ENDED, total),
            offered(scene.address, scene.sign_in, SIGN_INS, total),
            events(),
        )
        return judged(what, forwarded, polls, ended, sign_ins, returned)


def judged(
    what: str,
    forwarded: Sequence[Told],
    polls: Sequence[Told],
    ended: Sequence[Told],
    sign_ins: Sequence[Told],
    returned: float,
) -> Outage:
    """Say what callers saw. A refused sign-in counts as failed at the moment when it was told."""
    failed = [one for one in sign_ins if one.status != 200]
    polite = [one for one in failed if one.status == 503 and b"\r\nretry-after: " in one.head.lower()]
    wrong = [one for one in (*forwarded, *polls) if one.status != 200]
    last = max((one.sent + one.seconds for one in (*failed, *wrong)), default=returned)
    return Outage(
        what,
        forwarded_failed=sum(one.status != 200 for one in forwarded),
        forwarded_p99_ms=percentile([one.seconds for one in forwarded], 0.99) * MILLISECONDS,
        polls_failed=sum(one.status != 200 for one in polls),
        opened=sum(one.status < 400 for one in ended),
        sign_ins_refused=len(polite),
        sign_ins_rude=len(failed) - len(polite),
        slowest_sign_in_seconds=max(one.seconds for one in sign_ins),
        back_seconds=max(0.0, last - returned),
    )


async def _known_elsewhere(here: str, there: str, account: gateway.Account) -> float:
    headers = {"Authorization": f"Bearer {gateway.token(here, account)}"}
    near, far = urlsplit(here), urlsplit(there)
    near_line = await Connection.opened((near.hostname or "", near.port or 80))
    far_line = await Connection.opened((far.hostname or "", far.port or 80))
    ask = head("GET", WORK, far.netloc, headers)
    await far_line.call(ask)
    began = time.perf_counter()
    await near_line.call(head("POST", "/api/logout", near.netloc, headers, 0))
    while await far_line.send(ask) == 200:
        pass
    took = time.perf_counter() - began
    near_line.close()
    far_line.close()
    return took * MILLISECONDS


def _at_once(do: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def done() -> object:
        return do()

    return done


def _beside(do: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    """Do what takes a while in a thread, so that the load goes on."""
    return lambda: asyncio.to_thread(do)


def _table(known: Sequence[float], outages: Sequence[Outage]) -> report.Table:
    lines: list[tuple[str, float, Limit | None]] = [
        ("sign-out known at another gateway, from its request, p50", percentile(known, 0.5), KNOWN),
        ("the same, slowest", max(known), KNOWN),
    ]
    lines += [line for outage in outages for line in outage.lines()]
    rows = []
    for what, value, limit in lines:
        unit = limit.unit if limit is not None else "ms" if "p99" in what else "calls"
        verdict = "" if limit is None else limit.verdict(value)
        rows.append((what, *report.limits(limit), report.with_unit(value, unit), verdict))
    return report.Table("Stores that go away", ("what", "must", "goal", "measured", ""), tuple(rows))


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
