"""Places for upstream calls: a fixed number at once, a bounded first-come queue in front of them."""

import asyncio
from collections import deque
from contextlib import suppress

from backend.errors import Overloaded


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

    async def acquire(self) -> None:
        """Take a place. Raises Overloaded when the queue is full or the wait was in vain."""
        if self.free > 0:
            self.free -= 1
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
