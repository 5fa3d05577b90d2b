"""Brings files into the index and takes them out: at once for whoever waits, later for what was left.

A row that is claimed belongs to one process until it is due; whoever finds it due after that goes on.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from backend.errors import Conflict, GatewayError, NotFound, Overloaded
from backend.models.base import utc_now
from backend.models.stored_file import HELD
from backend.services import file_records, file_states
from backend.services.database import Database
from backend.services.file_kinds import KINDS
from backend.services.file_records import WORKING_IN, WORKING_OUT, Record
from backend.services.file_store import FileStore
from backend.services.library import Document, Ingested, Library, Removed

T = TypeVar("T")

log = logging.getLogger("gateway.files")

# One process gives the index so many documents at once; others wait for their turn, but not for ever.
MOST_AT_ONCE = 8
TURN_SECONDS = 300.0
# Beyond every limit of a call to the index.
INDEX_LEASE = timedelta(seconds=600)
REMOVE_LEASE = timedelta(seconds=120)
SWEEP_SECONDS = 60.0
# In one go, of each kind of work.
MOST_SWEPT = 200
STOP_SECONDS = 5.0

REMOVED_LATER = "The file will be removed as soon as the index answers."
BUSY = "The document index is busy. Please try again later."


@dataclass(frozen=True, slots=True)
class Outcome:
    """How indexing ended: with what the index tells, or with an error; `later` when it is tried again."""

    ingested: Ingested | None = None
    error: GatewayError | None = None
    later: bool = False


class Work:
    """Indexing under way; nobody is notified of what somebody waits for.

    `began_awaited` stays true for a caller who left.
    """

    def __init__(self, *, awaited: bool) -> None:
        self.awaited = self.began_awaited = awaited


class Indexing:
    """Owns every task that works on a document's way into and out of the index."""

    def __init__(
        self,
        database: Database,
        store: FileStore,
        library: Library,
        *,
        now: Callable[[], datetime] = utc_now,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        self._database = database
        self._store = store
        self._library = library
        self._now = now
        self._turn_seconds = turn_seconds
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Look for what was left now, and every SWEEP_SECONDS."""
        for lane in (WORKING_IN, WORKING_OUT):
            self._own(self._patrol(lane))

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def index(self, record: Record) -> Outcome:
        """Bring a stored file into the index and wait for it; goes on by itself when the caller leaves."""
        work = Work(awaited=True)
        try:
            return await asyncio.shield(self._own(self._in_turn(record, work)))
        except asyncio.CancelledError:
            work.awaited = False
            raise

    async def remove(self, record: Record) -> Removed:
        """Take a file out of index and disk; goes on by itself when the caller leaves.

        What the index surely did not do leaves the file as it was; where nobody can know, removing goes on
        later. Both raise what the index answered. Raises Conflict when the file changed in the meantime.
        """
        return await asyncio.shield(self._own(self._remove_at_once(record)))

    async def sweep(self, lane: Sequence[str]) -> int:
        """Do what is due of one kind of work, WORKING_IN or WORKING_OUT; tell how many files it was."""
        lease, work = (
            (INDEX_LEASE, self._index_later) if lane is WORKING_IN else (REMOVE_LEASE, self._remove_later)
        )
        if lane is WORKING_OUT:
            await self._database.run(file_records.mark_orphans(self._now()))
        for done in range(MOST_SWEPT):
            record = await self._database.run(file_records.claim(lane, self._now(), lease))
            if record is None:
                return done
            await work(record)
        return MOST_SWEPT

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, GatewayError):
            log.error("work on a file failed", exc_info=error)

    async def _patrol(self, lane: Sequence[str]) -> None:
        while True:
            try:
                await self.sweep(lane)
            except GatewayError as error:
                log.warning("files are left for later: %s", error.code)
            except Exception:
                log.exception("files are left for later")
            await asyncio.sleep(SWEEP_SECONDS)

    async def _in_turn(self, record: Record, work: Work) -> Outcome:
        try:
            async with asyncio.timeout(self._turn_seconds):
                await self._turns.acquire()
        except TimeoutError:
            return await self._failed(record, Overloaded(BUSY), work)
        try:
            claim = file_records.claim(("stored",), self._now(), INDEX_LEASE, record.id)
            claimed = await self._database.run(claim)
            if claimed is None:
                return Outcome(error=_gone())
            return await self._index(claimed, work)
        finally:
            self._turns.release()

    async def _index_later(self, record: Record) -> None:
        await self._index(record, Work(awaited=False))

    async def _index(self, record: Record, work: Work) -> Outcome:
        try:
            ingested = await self._into_index(record)
        except GatewayError as error:
            return await self._failed(record, error, work)
        except asyncio.CancelledError:
            await self._put_back(record)
            raise
        if not await self._settled(record, work, "indexed", due_at=None, problem=None):
            return Outcome(error=_gone())
        return Outcome(ingested)

    async def _into_index(self, record: Record) -> Ingested:
        if record.attempts > 1:  # an earlier attempt may have left something
            await self._library.remove(record.shelf, record.name)
        content = await self._store.open(record.path, record.size)
        try:
            document = Document(record.name, KINDS[record.kind].media_type, record.size)
            return await self._library.add(record.shelf, document, content)
        finally:
            await content.aclose()

    async def _failed(self, record: Record, error: GatewayError, work: Work) -> Outcome:
        log.warning("%s was not indexed: %s", record, error.code)
        fate = file_states.after_failure(record, error, awaited=work.began_awaited)
        removing = fate.state == "deleting" and fate.sure
        wait = REMOVE_LEASE if removing else fate.due_in
        due_at = None if wait is None else self._now() + wait
        values = {"due_at": due_at, "in_index": fate.in_index, "problem": error.msg[:200]}
        if not await self._settled(record, work, fate.state, **values):
            return Outcome(error=_gone())
        if fate.state == "deleting":
            left = replace(record, state="deleting", in_index=fate.in_index)
            with contextlib.suppress(GatewayError):
                await self._take_away(left, last=fate.sure)
        return Outcome(error=error, later=fate.state == "stored")

    async def _settled(self, record: Record, work: Work, state: str, **values: Any) -> bool:
        """Write down the new state; when the file is to be removed by now, remove it and return False."""
        notice = None if work.awaited else file_states.told(record, state)
        if await self._database.run(file_records.settle(record, notice, state=state, **values)):
            return True
        claim = file_records.claim(("deleting",), self._now(), REMOVE_LEASE, record.id)
        claimed = await self._database.run(claim)
        if claimed is not None:
            await self._remove_later(claimed)
        return False

    async def _put_back(self, record: Record) -> None:
        """This process stops: another one may begin anew at once."""
        back = file_records.settle(record, state="stored", due_at=self._now())
        with contextlib.suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._database.run(back)

    async def _remove_at_once(self, record: Record) -> Removed:
        held = record.state in HELD  # whoever holds it removes it when it is done
        due_at = record.due_at if held else self._now() + REMOVE_LEASE
        if not await self._database.run(file_records.settle(record, state="deleting", due_at=due_at)):
            raise Conflict("This file is changing just now. Please try again.")
        if held:
            return Removed()
        leaving = replace(record, state="deleting")
        try:
            removed = await self._out_of_index(leaving)
        except GatewayError as error:
            await self._not_removed(record, leaving, error)
            if file_states.is_unsure(error):
                raise type(error)(f"{error.msg} {REMOVED_LATER}") from error
            raise
        try:
            await self._forget(leaving)
        except GatewayError as error:  # it is out of the index, and the sweep sees to the rest
            log.warning("%s is left for the sweep: %s", leaving, error.code)
        return removed

    async def _not_removed(self, record: Record, leaving: Record, error: GatewayError) -> None:
        state, due_at = record.state, record.due_at
        if file_states.is_unsure(error):
            state, due_at = "deleting", self._now() + file_states.pause_after(1)
        await self._database.run(file_records.settle(leaving, state=state, due_at=due_at))

    async def _remove_later(self, record: Record) -> None:
        try:
            await self._take_away(record, last=True)
        except GatewayError as error:
            log.warning("%s is not removed yet: %s", record, error.code)
            due_at = self._now() + file_states.pause_after(record.attempts)
            await self._database.run(file_records.settle(record, due_at=due_at))

    async def _take_away(self, record: Record, *, last: bool) -> None:
        await self._out_of_index(record)
        if last:
            await self._forget(record)
        else:
            await self._store.remove(record.path)

    async def _out_of_index(self, record: Record) -> Removed:
        return await self._library.remove(record.shelf, record.name) if record.in_index else Removed()

    async def _forget(self, record: Record) -> None:
        await self._store.remove(record.path)
        await self._database.run(file_records.drop(record))


def _gone() -> NotFound:
    return NotFound("This file was removed in the meantime.")
