"""What a process knows of avatar sessions and has not written into their table yet."""

from collections.abc import Callable
from datetime import datetime

from backend.services import session_store as store
from backend.services import session_use
from backend.services.database import Database


class SessionNotes:
    """Uses, which are written for many users at once, and peer sessions that the database did not take."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._uses: dict[int, datetime] = {}
        self._offers: dict[int, int] = {}

    def use(self, user_id: int) -> None:
        self._uses[user_id] = self._now()

    def offer(self, row_id: int, peer_session: int | None) -> None:
        """Remember the peer session of a row; None forgets it."""
        if peer_session is None:
            self._offers.pop(row_id, None)
        else:
            self._offers[row_id] = peer_session

    def peer_session(self, row_id: int) -> int | None:
        return self._offers.get(row_id)

    async def write_uses(self) -> None:
        """Write down who used an avatar since the last time. Raises StoreUnavailable."""
        uses, self._uses = self._uses, {}
        if uses:
            await self._database.run(session_use.use(uses))

    async def write_offers(self) -> None:
        """Write down the peer sessions that could not be kept when they began. Raises StoreUnavailable."""
        for row_id, peer_session in list(self._offers.items()):
            await self._database.run(store.first_seat(row_id, self._now(), peer_session))
            if self._offers.get(row_id) == peer_session:
                del self._offers[row_id]

    def __repr__(self) -> str:
        return f"<SessionNotes {len(self._uses)} uses, {len(self._offers)} offers>"
