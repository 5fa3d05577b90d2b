"""How late the event loop is: whatever holds it up holds everybody up."""

import asyncio
import math
from collections import deque

BEAT_SECONDS = 0.25
# The worst of so many beats is told: a hold-up of a moment is still seen when somebody looks.
BEATS = 40


class LoopLag:
    """Sets a timer again and again, and remembers by how much each was late."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._late: deque[float] = deque(maxlen=BEATS)
        self._due = 0.0

    def start(self) -> None:
        """Begin to look, on the running loop."""
        self._set(asyncio.get_running_loop())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def worst_seconds(self) -> float:
        """How late the latest timer of the last ten seconds was."""
        return max(self._late, default=0.0)

    def worst_of(self, seconds: float) -> float:
        """How late the latest timer of the last so many seconds was, of ten at most."""
        beats = math.ceil(seconds / BEAT_SECONDS)
        return max(list(self._late)[-beats:], default=0.0)

    @property
    def mean_seconds(self) -> float:
        return sum(self._late) / len(self._late) if self._late else 0.0

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + BEAT_SECONDS
        self._timer = loop.call_at(self._due, self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._late.append(max(0.0, loop.time() - self._due))
        self._set(loop)

    def __repr__(self) -> str:
        return f"<LoopLag {self.worst_seconds * 1e3:.1f} ms at worst>"
