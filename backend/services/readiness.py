"""Whether the gateway can do its work, and if not, why."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from backend.errors import GatewayError
from backend.services.database import Database
from backend.services.forwarding import Forwarder, Upstream
from backend.services.policies import Freshness, Timeouts
from backend.services.redis_link import RedisLink

PROBE_SECONDS = 1.0
LATE = "no answer within a second"
PROBE_TIMEOUTS = Timeouts(first_byte=PROBE_SECONDS, idle=PROBE_SECONDS, total=PROBE_SECONDS)
# Health is asked often and by many: each dependency is probed at most once in this time.
KEPT_SECONDS = 1.0


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
    """Probes the gateway's dependencies side by side, each for at most a second."""

    def __init__(
        self,
        database: Database,
        forwarder: Forwarder,
        upstreams: Mapping[str, tuple[Upstream, str]],
        *,
        link: RedisLink | None = None,
    ) -> None:
        self._database = database
        self._forwarder = forwarder
        self._upstreams = upstreams
        self._link = link
        self._kept: Report | None = None
        self._fresh = Freshness(KEPT_SECONDS)
        self._lock = asyncio.Lock()

    async def report(self) -> Report:
        async with self._lock:
            if self._kept is None or not self._fresh.fresh:
                self._kept = await self._probe()
                self._fresh.touch()
            return self._kept

    async def _probe(self) -> Report:
        names = ["database", *self._upstreams]
        probes = [
            self._database_state(),
            *(self._upstream_state(*probe) for probe in self._upstreams.values()),
        ]
        checks = dict(zip(names, await asyncio.gather(*probes), strict=True))
        if self._link is not None:  # asked all the time anyway
            checks["redis"] = "ok" if self._link.available else "unreachable"
        return Report(checks, store_is_up=checks["database"] == "ok")

    async def _database_state(self) -> str:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._database.run(
                    lambda session: session.execute(
                        text("SELECT version_num FROM alembic_version")
                    ).scalar_one()
                )
        except TimeoutError:
            return LATE
        except GatewayError:
            return "unreachable"
        return "ok"

    async def _upstream_state(self, upstream: Upstream, path: str) -> str:
        try:
            # The limits of the call leave out the wait for a free place.
            async with asyncio.timeout(PROBE_SECONDS):
                answer = await self._forwarder.probe(upstream, path, PROBE_TIMEOUTS)
        except TimeoutError:
            return LATE
        except GatewayError as error:
            return error.code
        return "ok" if answer.status < 500 else f"answers {answer.status}"


def _looked_up(session: Session) -> object:
    """Read a table: SQLite answers `SELECT 1` without looking at its file."""
    return session.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
