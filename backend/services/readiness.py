"""Whether the gateway can do its work, and if not, why."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from backend.errors import GatewayError
from backend.services.database import Database
from backend.services.forwarding import Forwarder, Upstream
from backend.services.loop_lag import LoopLag
from backend.services.policies import Freshness, Timeouts
from backend.services.redis_link import RedisLink

# Health answers within a second, whatever hangs: the rest of it is for the answer itself.
PROBE_SECONDS = 0.9
# A probe ends by itself a little before nobody waits for it any more.
ANSWER_SECONDS = 0.8
LATE = "no answer in time"
PROBE_TIMEOUTS = Timeouts(first_byte=ANSWER_SECONDS, idle=ANSWER_SECONDS, total=ANSWER_SECONDS)
# Health is asked often and by many: each dependency is probed at most once in this time.
KEPT_SECONDS = 1.0
# The worst of the last ten seconds; calls feel a tenth of it.
LATE_LOOP_SECONDS = 1.0
# Uploads of 100 MB are promised room for.
LEAST_FREE_BYTES = 128 << 20

Check = Callable[[], Awaitable[str]]
"""Returns "ok", or what is wrong."""


@dataclass(frozen=True, slots=True)
class Report:
    """`checks` maps a dependency to "ok" or to what is wrong with it."""

    checks: Mapping[str, str]
    store_is_up: bool

    @property
    def status(self) -> str:
        if not self.store_is_up:
            return "unhealthy"
        return "healthy" if all(state == "ok" for state in self.checks.values()) else "degraded"


class Readiness:
    """Probes dependencies side by side, each for less than a second; `checks` are those of other kinds."""

    def __init__(
        self,
        database: Database,
        forwarder: Forwarder,
        upstreams: Mapping[str, tuple[Upstream, str]],
        checks: Mapping[str, Check] | None = None,
        *,
        link: RedisLink | None = None,
    ) -> None:
        self._probes = {"database": _Probe(partial(database_state, database))}
        for name, (upstream, path) in upstreams.items():
            self._probes[name] = _Probe(partial(upstream_state, forwarder, upstream, path))
        if link is not None:
            self._probes["redis"] = _Probe(redis_check(link))
        for name, check in (checks or {}).items():
            self._probes[name] = _Probe(check)
        self._kept: Report | None = None
        self._fresh = Freshness(KEPT_SECONDS)
        self._lock = asyncio.Lock()

    async def report(self) -> Report:
        async with self._lock:
            if self._kept is None or not self._fresh.fresh:
                self._kept = await self._probe()
                self._fresh.touch()
            return self._kept

    async def aclose(self) -> None:
        """Give up the probes that still hang."""
        await asyncio.gather(*(probe.aclose() for probe in self._probes.values()))

    async def _probe(self) -> Report:
        states = await asyncio.gather(*(probe.state() for probe in self._probes.values()))
        checks = dict(zip(self._probes, states, strict=True))
        return Report(checks, store_is_up=checks["database"] == "ok")


class _Probe:
    """One check, of which at most one is under way: one that hangs takes one thread and not ever more."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._task: asyncio.Task[str] | None = None

    async def state(self) -> str:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._outcome())
        task = self._task
        await asyncio.wait({task}, timeout=PROBE_SECONDS)
        if not task.done():
            return LATE
        self._task = None
        return task.result()

    async def _outcome(self) -> str:
        try:
            return await self._check()
        except GatewayError as error:
            return error.code

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=PROBE_SECONDS)


async def database_state(database: Database) -> str:
    try:
        await database.run(_looked_up)
    except GatewayError:
        return "unreachable"
    return "ok"


async def upstream_state(forwarder: Forwarder, upstream: Upstream, path: str) -> str:
    """Whatever answers is there: services need not have this path."""
    answer = await forwarder.probe(upstream, path, PROBE_TIMEOUTS)
    return "ok" if answer.status < 500 else f"answers {answer.status}"


def redis_check(link: RedisLink) -> Check:
    async def check() -> str:
        return "ok" if link.available else "unreachable"  # it is asked all the time anyway

    return check


def loop_check(lag: LoopLag) -> Check:
    async def check() -> str:
        late = lag.worst_seconds
        return "ok" if late < LATE_LOOP_SECONDS else f"late by {late:.1f} s"

    return check


def places_check(forwarder: Forwarder) -> Check:
    async def check() -> str:
        if forwarder.full:
            return "all taken"
        waited_for = sorted(name for name, load in forwarder.loads().items() if load.waiting)
        return f"calls wait for {', '.join(waited_for)}" if waited_for else "ok"

    return check


def files_check(folder: Path) -> Check:
    async def check() -> str:
        try:
            free = await asyncio.to_thread(_free_bytes, folder)
        except OSError:
            return "cannot be reached"
        return "ok" if free >= LEAST_FREE_BYTES else "nearly full"

    return check


def _free_bytes(folder: Path) -> int:
    """Return the room under a folder, which need not exist before the first upload."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _looked_up(session: Session) -> object:
    """Read a table: SQLite answers `SELECT 1` without looking at its file."""
    return session.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
