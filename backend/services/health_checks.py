"""Health checks: addresses are asked whether anybody is there, so that calls need not find out."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from backend.errors import (
    GatewayError,
    UpstreamBroken,
    UpstreamError,
    UpstreamGarbage,
    UpstreamRefused,
)
from backend.services.balancing import Found
from backend.services.forwarding import Forwarder, Upstream
from backend.services.policies import Timeouts
from backend.services.trail import TRAIL, Trail

log = logging.getLogger("gateway.health_checks")

# Whatever answers is there: services need not have this path.
PATH = "/health"
# What answers nothing for so long answers no call well either.
LONGEST_ANSWER_SECONDS = 1.0
# Of the time between two checks: so those of many gateways do not fall together, and none comes late.
JITTER = 0.2


class HealthChecks:
    """Asks the addresses of upstreams that have several, and a single one while calls are kept away from it.

    A task for each address, which makes one check at a time; `dice` returns numbers from 0 to 1.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        upstreams: Sequence[Upstream],
        *,
        every_seconds: float,
        dice: Callable[[], float] | None = None,
    ) -> None:
        self._forwarder = forwarder
        self._upstreams = upstreams
        self._every_seconds = every_seconds
        answer = min(LONGEST_ANSWER_SECONDS, every_seconds / 2)
        self._timeouts = Timeouts(first_byte=answer, idle=answer, total=answer)
        # Without another check for so long, nobody looks any more, and calls find out by themselves.
        self._holds_seconds = 2 * every_seconds + answer
        self._dice = dice or random.Random().random  # noqa: S311 - a generator of its own, no secret
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look, on the running loop."""
        several: dict[tuple[str, ...], Upstream] = {one.origins: one for one in self._upstreams}
        self._tasks = [
            asyncio.create_task(self._keep_checking(upstream, origin), name="health check")
            for upstream in several.values()
            for origin in dict.fromkeys(upstream.origins)
        ]

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_checking(self, upstream: Upstream, origin: str) -> None:
        TRAIL.set(Trail())  # nobody's request
        traffic = self._forwarder.traffic(upstream)
        clock = asyncio.get_running_loop().time
        due = clock() + self._every_seconds * self._dice()
        while True:
            await asyncio.sleep(due - clock())
            due = clock() + self._every_seconds * (1 - JITTER * self._dice())
            if len(traffic.addresses) > 1 or traffic.is_out(origin):
                await self._check(upstream, origin)

    async def _check(self, upstream: Upstream, origin: str) -> None:
        traffic = self._forwarder.traffic(upstream)
        found = await self._found(upstream, origin)
        before = traffic.is_out(origin)
        if found is not None:
            traffic.checked(origin, found, self._holds_seconds)
        if traffic.is_out(origin) != before:
            number = [*traffic.addresses].index(origin) + 1
            change = "is back" if before else f"gets no calls: {found}"
            log.warning("address %d of %s %s", number, upstream.name, change)

    async def _found(self, upstream: Upstream, origin: str) -> Found | None:
        """Ask, once more where a kept connection may just have been closed. None: it was not asked."""
        try:
            try:
                await self._forwarder.check(upstream, origin, PATH, self._timeouts)
            except (UpstreamBroken, UpstreamGarbage):
                await self._forwarder.check(upstream, origin, PATH, self._timeouts)
        except (UpstreamRefused, UpstreamBroken, UpstreamGarbage):
            return "down"
        except UpstreamError:
            return "silent"
        except GatewayError:
            return None
        return "up"

    def __repr__(self) -> str:
        return f"<HealthChecks of {len(self._tasks)} addresses>"
