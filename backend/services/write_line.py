"""Small writes that come together are made together: one transaction, one wait for the disk."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

from sqlalchemy.orm import Session

from backend.errors import GatewayError, Overloaded, StoreUnavailable
from backend.services.database import Database

T = TypeVar("T")
Work = Callable[[Session], Any]

log = logging.getLogger("gateway.write_line")

# Some milliseconds of work: nobody else's write waits long for them.
MOST_TOGETHER = 50


class WriteLine:
    """Runs writes in their order, those that wait at the same time in one transaction.

    What a work raises is its caller's alone, so it may raise a GatewayError only before it has written. A
    transaction that one of them breaks is repeated work by work.
    """

    def __init__(self, database: Database, *, waiting: int) -> None:
        self._database = database
        self._most = waiting
        self._waiting: deque[tuple[Work, asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[Session], T]) -> T:
        """Run `work(session)` and return what it returns.

        Raises Overloaded behind a full line, and what `Database.run` raises.
        """
        if len(self._waiting) >= self._most:
            raise Overloaded
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((work, outcome))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._go())
        return cast(T, await outcome)

    async def aclose(self) -> None:
        """Finish what waits: each transaction has limits of its own."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _go(self) -> None:
        while self._waiting:
            together = [self._waiting.popleft() for _ in range(min(MOST_TOGETHER, len(self._waiting)))]
            # Of a caller who left before its turn, nothing is written.
            together = [(work, outcome) for work, outcome in together if not outcome.done()]
            if not together:
                continue
            if not await self._done(together) and len(together) > 1:
                for alone in together:
                    await self._done([alone])

    async def _done(self, together: list[tuple[Work, "asyncio.Future[Any]"]]) -> bool:
        """Make these writes; tell whether it is known what came of each."""
        works = [work for work, _ in together]
        try:
            results = await self._database.run(lambda session: [_tried(work, session) for work in works])
        except StoreUnavailable:
            # Not repeated: it may have been done after all, and each repetition would wait as long again.
            results = [StoreUnavailable() for _ in works]
        except Exception as error:
            if len(works) > 1:
                return False
            results = [error]
        for (_, outcome), result in zip(together, results, strict=True):
            if outcome.done():
                continue
            if isinstance(result, Exception):
                outcome.set_exception(result)
            else:
                outcome.set_result(result)
        return True

    def __repr__(self) -> str:
        return f"<WriteLine {len(self._waiting)} waiting>"


def _tried(work: Work, session: Session) -> Any:
    try:
        return work(session)
    except GatewayError as error:
        return error
