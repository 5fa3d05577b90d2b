"""The clocks of one upstream call: first byte, idle, total, and the client's own pauses."""

from collections.abc import Awaitable
from typing import TypeVar

from backend.errors import (
    UpstreamError,
    UpstreamFirstByteTimeout,
    UpstreamIdleTimeout,
    UpstreamTotalTimeout,
)
from backend.services.deadline import Deadline
from backend.services.policies import Timeouts
from backend.services.transports import Opened

T = TypeVar("T")


class Limits:
    """The time limits of one call, from its first byte out to the last one in, on one timer."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._deadline = Deadline()
        self._first_byte = timeouts.first_byte
        self._idle = timeouts.idle
        self.upload_idle = timeouts.upload_idle
        self._end = None if timeouts.total is None else self._deadline.now() + timeouts.total
        self._answered = False

    async def head(self, opening: Awaitable[Opened]) -> Opened:
        """Wait for the answer's head. Raises UpstreamFirstByteTimeout and UpstreamTotalTimeout."""
        opened = await self._within(opening, self._first_byte, UpstreamFirstByteTimeout)
        self._answered = True
        return opened

    async def chunk(self, reading: Awaitable[bytes]) -> bytes:
        """Wait for the next of the body. Raises UpstreamIdleTimeout and UpstreamTotalTimeout."""
        return await self._within(reading, self._idle, UpstreamIdleTimeout)

    def uploading(self) -> None:
        """While the client is being waited for, the upstream's clock stands still."""
        self._push(self.upload_idle + self._first_byte)

    def uploaded(self) -> None:
        """A part of the body went up: the wait for the first byte begins anew."""
        self._push(self._first_byte)

    def close(self) -> None:
        self._deadline.close()

    def _push(self, seconds: float) -> None:
        if not self._answered:  # an upstream may answer before it has the whole body
            self._deadline.push(self._nearer(seconds))

    async def _within(self, awaitable: Awaitable[T], seconds: float, late: type[UpstreamError]) -> T:
        try:
            return await self._deadline.within(awaitable, self._nearer(seconds))
        except TimeoutError:
            total = self._end is not None and self._deadline.now() >= self._end
            raise (UpstreamTotalTimeout if total else late) from None

    def _nearer(self, seconds: float) -> float:
        when = self._deadline.now() + seconds
        return when if self._end is None or when < self._end else self._end
