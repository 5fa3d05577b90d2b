"""Cold starts: one at a time for each avatar, in all processes together; whoever comes meanwhile waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from backend.errors import NoFreePlace, UpstreamTotalTimeout
from backend.services import session_store as store
from backend.services.database import Database
from backend.services.leases import Leases
from backend.services.waiting_line import WaitingLine

# What a start may wait for others; beyond, the frontend's 300 s would not do for its own.
WAIT_SECONDS = 140.0
# Between two looks whether another process is done: a cold start takes seconds at least.
LOOK_SECONDS = 0.2
STILL_STARTING = "Answer timeout: the avatar is still starting. Check again later."


class ColdStarts:
    """Lets start calls pass for an avatar that somebody is on, and one at a time for others."""

    def __init__(self, database: Database, leases: Leases, line: WaitingLine) -> None:
        self._database = database
        self._leases = leases
        self._line = line
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._held: set[str] = set()

    @asynccontextmanager
    async def turn(self, user_id: int, avatar: str) -> AsyncIterator[None]:
        """Wait until the user may start an avatar.

        Raises NoFreePlace while others wait for a place before the user, and UpstreamTotalTimeout.
        """
        lock = self._locks.setdefault(avatar, asyncio.Lock())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                cold = await self._waited(lock, user_id, avatar)
        except TimeoutError:
            raise UpstreamTotalTimeout(STILL_STARTING) from None
        if not cold:
            yield
            return
        name = _name(avatar)
        self._held.add(name)
        try:
            yield
        finally:
            self._held.discard(name)
            lock.release()
            await self._leases.give_back(name)

    async def renew(self) -> None:
        """Keep the turns that this process has. Raises StoreUnavailable."""
        for name in list(self._held):
            await self._leases.take(name)

    async def _waited(self, lock: asyncio.Lock, user_id: int, avatar: str) -> bool:
        """Wait for the turn; False when there is somebody on the avatar, and no turn is needed."""
        await lock.acquire()
        cold = False
        try:
            while not await self._database.run(store.is_warm(avatar)):
                if await self._line.ahead(user_id):
                    raise NoFreePlace
                if await self._leases.take(_name(avatar)):
                    cold = True
                    break
                await asyncio.sleep(LOOK_SECONDS)
            return cold
        finally:
            if not cold:
                lock.release()

    def __repr__(self) -> str:
        return f"<ColdStarts {sorted(self._held)}>"


def _name(avatar: str) -> str:
    return f"start {avatar}"
