"""Instances without a manager, LiveTalking's for one: fixed ports, and the gateway counts who is where."""

import asyncio
import time
from collections.abc import Callable

from backend.errors import GatewayError, UpstreamBusy, UpstreamConnectTimeout, UpstreamRefused
from backend.services.dialects import LIVETALKING, json_object
from backend.services.forwarding import Forwarder
from backend.services.policies import Timeouts
from backend.services.seats import Place, Ports, Standing

PROBE = Timeouts(first_byte=2, idle=2, total=2)
MOST_PROBES = 16
# Everybody who starts asks which instances stand; they do not come and go faster.
FRESH_SECONDS = 1.0
NONE_STANDS = "No avatar instance is running. Please try again later."


class LiveTalkingFleet:
    """The instances that answer at the ports; `room` is how many users one takes that does not say so."""

    counts = False
    dialect = LIVETALKING

    def __init__(
        self,
        forwarder: Forwarder,
        ports: Ports,
        *,
        room: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._forwarder = forwarder
        self._ports = ports
        self._room = room
        self._clock = clock
        self._found: list[Standing] = []
        self._found_at = -FRESH_SECONDS
        self._asking = asyncio.Lock()

    async def start(self, user_id: int, avatar: str) -> list[Standing]:
        """Return the instances: every one shows the avatar that it was started with."""
        standing = [
            Standing(Place(avatar, each.place.instance_id, each.place.port), room=each.room)
            for each in await self.standing()
        ]
        if not standing:
            raise UpstreamBusy(NONE_STANDS)
        return standing

    async def find(self, place: Place) -> Standing | None:
        """Ask an instance whether it is there."""
        found = await self._probe(place.port)
        return None if found is None else Standing(place, room=found.room)

    async def let_go(self, place: Place) -> None:
        """Nobody else counts."""

    async def standing(self) -> list[Standing]:
        """Return who answers at the ports, as of a second ago at most."""
        async with self._asking:
            if self._clock() - self._found_at >= FRESH_SECONDS:
                places = asyncio.Semaphore(MOST_PROBES)

                async def probe(port: int) -> Standing | None:
                    async with places:
                        return await self._probe(port)

                found = await asyncio.gather(*(probe(port) for port in self._ports.all))
                self._found = [each for each in found if each is not None]
                self._found_at = self._clock()
            return self._found

    async def _probe(self, port: int) -> Standing | None:
        """Return the instance at a port; one that is slow or says nonsense stands, too."""
        room = self._room
        try:
            answer = await self._forwarder.probe(self._ports.upstream(port), "/health", PROBE)
            said = json_object(answer.status, answer.content).get("max_sessions")
            if isinstance(said, int) and not isinstance(said, bool) and said >= 0:
                room = said
        except (UpstreamRefused, UpstreamConnectTimeout):
            return None
        except GatewayError:
            pass  # LiveTalking itself has no such route
        return Standing(Place("", f"port-{port}", port), room=room)
