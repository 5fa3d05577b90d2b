"""Where answers are kept once they ended, however they ended: tried again until the database takes them."""

import asyncio
import logging
from datetime import datetime

from backend.errors import Overloaded, StoreUnavailable
from backend.models.base import utc_now
from backend.services.chats import Chats

log = logging.getLogger("gateway.archive")

# What may wait in memory while the database is away.
MOST_WAITING = 1_000
MOST_WAITING_CHARACTERS = 32_000_000
# While the database is away, few stand in its queue.
AT_ONCE = 4
FIRST_PAUSE_SECONDS = 0.5
MOST_PAUSE_SECONDS = 10.0
# How long a gateway that stops goes on trying.
CLOSE_SECONDS = 5.0


class Archive:
    """Saves answers in tasks of its own, so that nobody who leaves or is cancelled can lose one."""

    def __init__(
        self,
        chats: Chats,
        *,
        most_waiting: int = MOST_WAITING,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._chats = chats
        self._most_waiting = most_waiting
        self._first_pause_seconds = first_pause_seconds
        self._close_seconds = close_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._characters = 0
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._closing = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._tasks)

    def keep(self, chat_id: int, answer: str) -> "asyncio.Task[None] | None":
        """Begin to save an answer; the task ends when it is saved. None when there is no room to wait."""
        if self.waiting >= self._most_waiting or self._characters > MOST_WAITING_CHARACTERS:
            log.error("an answer in conversation %d is lost: too many wait for the database", chat_id)
            return None
        task = asyncio.get_running_loop().create_task(self._saved(chat_id, answer, utc_now()))
        self._tasks.add(task)
        self._characters += len(answer)
        task.add_done_callback(lambda ended: self._over(ended, chat_id, len(answer)))
        return task

    async def aclose(self) -> None:
        """Save what waits, for a bounded time."""
        self._closing.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._close_seconds)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _saved(self, chat_id: int, answer: str, said_at: datetime) -> None:
        pause = self._first_pause_seconds
        while True:
            try:
                async with self._turn:
                    existed = await self._chats.keep_answer(chat_id, answer, said_at)
            except (StoreUnavailable, Overloaded):
                log.warning("an answer in conversation %d waits for the database", chat_id)
            else:
                if not existed:
                    log.info("conversation %d was deleted before its answer ended", chat_id)
                return
            await self._rest(pause)
            pause = min(2 * pause, MOST_PAUSE_SECONDS)

    async def _rest(self, seconds: float) -> None:
        """Wait before the next attempt; a gateway that stops tries again soon."""
        if self._closing.is_set():
            await asyncio.sleep(min(seconds, self._first_pause_seconds))
            return
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return

    def _over(self, task: "asyncio.Task[None]", chat_id: int, characters: int) -> None:
        self._tasks.discard(task)
        self._characters -= characters
        if task.cancelled():
            log.error("an answer in conversation %d is lost: the database did not come back", chat_id)
        elif (error := task.exception()) is not None:
            log.error("an answer in conversation %d could not be saved", chat_id, exc_info=error)

    def __repr__(self) -> str:
        return f"<Archive {self.waiting} waiting>"
