"""Work that goes on when its caller leaves, because half of it would be worse than none."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from backend.errors import GatewayError, Overloaded

T = TypeVar("T")

log = logging.getLogger("gateway.errands")

PARTING_SECONDS = 1.0  # what errands under way get when the process ends; a server gives all of it five


class Errands:
    """Owns tasks, at most `most` at a time, and sees each of them to its end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work and return its outcome; a caller who leaves does not stop it. Raises Overloaded."""
        outcome: T = await asyncio.shield(self.begin(work))
        return outcome

    def begin(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Begin work that is waited for elsewhere. Raises Overloaded, and then it is not begun."""
        if len(self._tasks) >= self._most:
            work.close()
            raise Overloaded
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Begin work that nobody waits for; left undone, and logged, when there is no room for it."""
        try:
            self.begin(work)
        except Overloaded:
            log.warning("no room for an errand, left undone")

    async def aclose(self) -> None:
        """Wait for what is under way, but not for ever."""
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=PARTING_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, GatewayError):
            log.error("an errand failed", exc_info=error)

    def __repr__(self) -> str:
        return f"<Errands {len(self._tasks)} of {self._most}>"
