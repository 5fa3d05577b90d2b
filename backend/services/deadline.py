"""A limit on waiting that can be moved: one timer for a whole exchange instead of one for each wait.

`asyncio.timeout` costs 10 to 15 µs each time; a small call waits five times.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

# A timer that fires this late fires in a loop that was busy: what arrived meanwhile is still unread.
LAG_SECONDS = 0.05


class Deadline:
    """Cancels one awaited thing at a time when its hour has come.

    The timer is armed by the first wait and only looks again when it fires, so that pushing the hour
    on is an assignment.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._when: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False
        self._spared = False

    def now(self) -> float:
        return self._loop.time()

    def push(self, when: float) -> None:
        """Move the hour of the present wait, in loop time."""
        self._when = when
        if self._timer is None or when < self._timer.when():
            self.close()
            self._timer = self._loop.call_at(when, self._look)

    async def within(self, awaitable: Awaitable[T], when: float) -> T:
        """Await something until `when`, in loop time. Raises TimeoutError."""
        task = self._task = asyncio.current_task()
        assert task is not None  # noqa: S101 - narrows the type
        cancelled_before = task.cancelling()
        self._expired = self._spared = False
        self.push(when)
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._expired and task.uncancel() <= cancelled_before:
                raise TimeoutError from None
            raise
        finally:
            self._when = None

    def close(self) -> None:
        """Let go of the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._when is None or self._task is None:
            return
        late = self._loop.time() - self._when
        if late < 0:
            self._timer = self._loop.call_at(self._when, self._look)
            return
        if late > LAG_SECONDS and not self._spared:
            # libuv fires timers before it reads: one turn of the loop shows what came in time.
            self._spared = True
            self._timer = self._loop.call_later(0, self._look)
            return
        self._expired = True
        self._task.cancel()
