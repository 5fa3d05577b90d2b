"""What goes on beside the calls about avatar sessions: comparing, clearing up, and watching connections."""

from dataclasses import dataclass

from backend.services.housekeeping import Housekeeping
from backend.services.peer_watch import PeerWatch
from backend.services.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Both keepers of the sessions, opened and closed with them."""

    sessions: Sessions
    housekeeping: Housekeeping
    peer_watch: PeerWatch

    def start(self) -> None:
        self.housekeeping.start()
        self.peer_watch.start()

    async def aclose(self) -> None:
        await self.peer_watch.aclose()
        await self.housekeeping.aclose()
        await self.sessions.aclose()
