"""Having clients watched that wait for long: one timer for all of them instead of one for each."""

import asyncio
from itertools import islice
from typing import Protocol
from weakref import WeakKeyDictionary

# A client that leaves is noticed within 250 ms: two looks and what cancelling takes. Small calls end before
# the first, and never pay for a watcher.
LOOK_SECONDS = 0.08
# A look that comes this late finds a loop that is busy with a burst of calls. Watchers, a quarter of what
# such a call costs on Granian, then begin a few at a time, and the others when the burst is over.
LATE_SECONDS = 0.02
WATCHERS_WHEN_BUSY = 16


class Watched(Protocol):
    """What the patrol looks at."""

    def watch(self) -> bool:
        """From now on notice that the client leaves; True if that has to be asked for again."""


class Patrol:
    """Has the clients of exchanges that last watched: one timer for all instead of one for each."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fresh: dict[Watched, None] = {}  # since the last look
        self._due: dict[Watched, None] = {}  # here at the last look already
        self._uploads: set[Watched] = set()  # watched, and looked after until their bodies end
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def here(cls) -> "Patrol":
        """Return the patrol of the running loop."""
        loop = asyncio.get_running_loop()
        patrol = _patrols.get(loop)
        if patrol is None:
            patrol = _patrols[loop] = cls(loop)
        return patrol

    def add(self, exchange: Watched) -> None:
        self._fresh[exchange] = None
        if self._timer is None:
            self._look_later()

    def drop(self, exchange: Watched) -> None:
        self._fresh.pop(exchange, None)
        self._due.pop(exchange, None)
        self._uploads.discard(exchange)

    def _look_later(self) -> None:
        self._next_look = self._loop.time() + LOOK_SECONDS
        self._timer = self._loop.call_at(self._next_look, self._look)

    def _look(self) -> None:
        busy = self._loop.time() - self._next_look > LATE_SECONDS
        uploads, self._uploads = self._uploads, set()
        for exchange in (*uploads, *islice(self._due, WATCHERS_WHEN_BUSY if busy else None)):
            self._due.pop(exchange, None)
            if exchange.watch():
                self._uploads.add(exchange)
        self._due |= self._fresh
        self._fresh = {}
        self._timer = None
        if self._due or self._uploads:
            self._look_later()


_patrols: WeakKeyDictionary[asyncio.AbstractEventLoop, Patrol] = WeakKeyDictionary()
