"""Places for upstream calls: so many at once, a short queue in front, a share for each upstream."""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Protocol

from backend.errors import Overloaded


class Places(Protocol):
    """Where a call takes its place, and gives it back."""

    async def acquire(self) -> None: ...

    def answered(self) -> None: ...

    def release(self, *, answered: bool) -> None: ...


class Slots:
    """Counts calls in flight; when all places are taken, callers wait in order, but not for long."""

    def __init__(self, size: int, *, waiting: int, wait_seconds: float) -> None:
        self.size = size
        self.free = size
        self._most_waiting = waiting
        self._wait_seconds = wait_seconds
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def in_use(self) -> int:
        return self.size - self.free

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def take(self) -> bool:
        """Take a place if one is free."""
        if self.free > 0:
            self.free -= 1
            return True
        return False

    async def acquire(self) -> None:
        """Take a place. Raises Overloaded when the queue is full or the wait was in vain."""
        if self.take():
            return
        if len(self._queue) >= self._most_waiting:
            raise Overloaded
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await place
        except BaseException as exc:
            if place.done() and not place.cancelled():
                self.release()  # handed over in the same moment: pass it on
            else:
                with suppress(ValueError):  # a release in the same moment took it out already
                    self._queue.remove(place)
            if isinstance(exc, TimeoutError):
                raise Overloaded from None
            raise

    def release(self) -> None:
        """Give the place to whoever waits longest, or back."""
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.free += 1

    def __repr__(self) -> str:
        return f"<Slots {self.in_use}/{self.size} in use, {self.waiting} waiting>"


class Share:
    """What one upstream may take of a worker's calls: so many unanswered, and at most half of all places.

    A slow upstream fills its own share and nobody else's. A call whose answer has begun costs its upstream no
    more work and gives its first place back, unless `to_the_end`: then the answer's body counts, too.
    """

    def __init__(
        self, everyone: Slots, size: int, *, waiting: int, wait_seconds: float, to_the_end: bool = False
    ) -> None:
        self._everyone = everyone
        # Who waits behind half a full house waits half as long as a call takes: more would only grow old.
        self._unanswered = Slots(size, waiting=min(waiting, max(1, size // 2)), wait_seconds=wait_seconds)
        self._to_the_end = to_the_end
        self._most = max(1, everyone.size // 2)
        self.in_flight = 0

    @property
    def unanswered(self) -> int:
        return self._unanswered.in_use

    @property
    def waiting(self) -> int:
        return self._unanswered.waiting

    async def acquire(self) -> None:
        """Take a place for one call. Raises Overloaded."""
        if not self._unanswered.take():
            await self._unanswered.acquire()
        if self.in_flight >= self._most or not self._everyone.take():
            self._unanswered.release()
            raise Overloaded
        self.in_flight += 1

    def answered(self) -> None:
        """An answer has begun."""
        if not self._to_the_end:
            self._unanswered.release()

    def release(self, *, answered: bool) -> None:
        """Give the place back: a call has ended."""
        self.in_flight -= 1
        self._everyone.release()
        if self._to_the_end or not answered:
            self._unanswered.release()

    def __repr__(self) -> str:
        return f"<Share {self.in_flight} in flight, unanswered {self._unanswered!r}>"
