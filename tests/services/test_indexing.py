"""Whatever a process was doing when it died, another one brings list, disk and index into agreement."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from flask import Flask
from sqlalchemy import select

from backend.config import load
from backend.errors import Overloaded, UpstreamBroken, UpstreamRefused
from backend.models import Notification, StoredFile, User
from backend.services import file_records, indexing
from backend.services.database import Database, attach, upgrade
from backend.services.file_kinds import KINDS, Inspection
from backend.services.file_records import WORKING_IN, WORKING_OUT, Record, Wanted
from backend.services.file_states import MOST_ATTEMPTS, UNSURE
from backend.services.file_store import FileStore, new_path
from backend.services.files import Asker, Files
from backend.services.forwarding import Forwarder, Upstream
from backend.services.indexing import INDEX_LEASE
from backend.services.library import Library
from backend.services.uploads import DEAD_AFTER, Sent
from tests.support.documents import TEXT
from tests.support.forms import MULTIPART, Part, Pieces, written
from tests.support.index import Index
from tests.support.index import indexing as running_index
from tests.support.peer import until
from tests.support.ports import free_port
from tests.support.upstream import client_of

ADA = 1


@dataclass
class Clock:
    now: datetime = datetime(2036, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, time: timedelta) -> None:
        self.now += time + timedelta(seconds=1)


@dataclass
class Desk:
    database: Database
    folder: Path
    index: Index
    forwarder: Forwarder
    upstream: Upstream
    library: Library
    clock: Clock
    store: FileStore
    opened: list[Files] = field(default_factory=list)

    def process(self) -> Files:
        """Another process with the same disk, database and index; its patrols are not started."""
        files = Files(self.database, self.store, self.library, quota=1 << 20, now=self.clock)
        self.opened.append(files)
        return files

    def rows(self, table: Any = StoredFile) -> list[Any]:
        with self.database.transaction() as session:
            return list(session.scalars(select(table).order_by(table.id)))

    @property
    def states(self) -> list[str]:
        return [row.state for row in self.rows()]

    @property
    def told(self) -> list[str]:
        return [notice.type for notice in self.rows(Notification)]

    @property
    def on_disk(self) -> list[Path]:
        return [place for place in (self.folder / "files").rglob("*") if place.is_file()]

    async def sweep(self) -> int:
        """What the patrols of a process do every minute."""
        files = self.process()
        return sum([await files.indexing.sweep(lane) for lane in (WORKING_IN, WORKING_OUT)])

    async def stored(self, *, public: bool = False, chat: int | None = 5) -> Record:
        """A document that is accepted and due to be indexed."""
        wanted = Wanted(ADA, public, "a.txt", new_path(), "txt", len(TEXT))
        await self.database.run(file_records.reserve(wanted, 1 << 20, self.clock() + DEAD_AFTER))
        writing = self.store.write(wanted.path, Inspection(KINDS["txt"]))
        await writing.write(TEXT)
        done = await writing.finish()
        record = await self.database.run(file_records.accept(wanted.path, done, "stored", self.clock()))
        return record if chat is None else await self.database.run(file_records.into_chat(record, chat))

    def heal(self) -> None:
        """Time passes for the breaker, too, whose clock is not ours."""
        self.forwarder.readmit(self.upstream)

    def nothing_is_left(self) -> None:
        assert self.rows() == []
        assert self.on_disk == []
        assert not any(self.index.shelves.values())


@contextlib.asynccontextmanager
async def working(folder: Path, url: str | None = None) -> AsyncIterator[Desk]:
    app = Flask("test")
    engine = attach(app, load({}, None, database_url=f"sqlite:///{folder}/gateway.db"))
    await asyncio.to_thread(upgrade, app)
    database = Database(engine, threads=4)
    with database.transaction() as session:
        session.add(User(id=ADA, email="ada@test.local", password_hash="x"))
    async with running_index() as index, client_of("direct") as client:
        forwarder, upstream = Forwarder(client), Upstream.at("index", url or index.url)
        library = Library(forwarder, upstream)
        store = FileStore(folder / "files")
        desk = Desk(database, folder, index, forwarder, upstream, library, Clock(), store)
        yield desk
        index.speak.set()
        for files in desk.opened:
            await files.aclose()
    desk.store.close()
    await database.aclose()


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with working(tmp_path) as desk:
        yield desk


@pytest.mark.asyncio
@pytest.mark.parametrize("renamed", [False, True])
async def test_process_that_died_while_a_file_arrived_leaves_nothing(desk: Desk, renamed: bool) -> None:
    wanted = Wanted(ADA, False, "a.txt", new_path(), "txt", 100)
    await desk.database.run(file_records.reserve(wanted, 1 << 20, desk.clock() + DEAD_AFTER))
    writing = desk.store.write(wanted.path, Inspection(KINDS["txt"]))
    await writing.write(TEXT)
    if renamed:
        await writing.finish()
    assert await desk.sweep() == 0  # it may still be on its way
    desk.clock.pass_by(DEAD_AFTER)
    assert await desk.sweep() == 1
    desk.nothing_is_left()
    writing.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("sent", ["nothing", "everything"])
@pytest.mark.parametrize("public", [False, True])
async def test_process_that_died_while_indexing_is_followed_by_another(
    desk: Desk, sent: str, public: bool
) -> None:
    record = await desk.stored(public=public)
    await desk.database.run(file_records.claim(WORKING_IN, desk.clock(), INDEX_LEASE))
    shelf = desk.index.public if public else desk.index.private(ADA)
    if sent == "everything":
        shelf["a.txt"] = "sent by the one that died"
    assert await desk.sweep() == 0
    desk.clock.pass_by(INDEX_LEASE)
    assert await desk.sweep() == 1
    # The index of these tests takes no name twice: what was there went first.
    assert list(shelf) == ["a.txt"]
    assert desk.states == ["indexed"]
    assert desk.told == ["success"]
    assert [place.name for place in desk.on_disk] == [record.path[-32:]]
    assert await desk.sweep() == 0


@pytest.mark.asyncio
async def test_process_that_died_before_indexing_is_followed_by_another(desk: Desk) -> None:
    await desk.stored()
    assert await desk.sweep() == 1
    assert (desk.states, desk.told) == (["indexed"], ["success"])


@pytest.mark.asyncio
@pytest.mark.parametrize("done", ["nothing", "index", "index and disk"])
async def test_process_that_died_while_removing_is_followed_by_another(desk: Desk, done: str) -> None:
    record = await desk.stored()
    await desk.sweep()
    with desk.database.transaction() as session:
        row = session.get(StoredFile, record.id)
        assert row is not None
        row.state, row.due_at = "deleting", desk.clock() + timedelta(minutes=2)
    if done != "nothing":
        desk.index.private(ADA).clear()
    if done == "index and disk":
        await desk.store.remove(record.path)
    assert await desk.sweep() == 0
    desk.clock.pass_by(timedelta(minutes=2))
    assert await desk.sweep() == 1
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_process_that_stops_puts_back_what_it_was_indexing(desk: Desk) -> None:
    record = await desk.stored()
    desk.index.mute.add("/user/upload")
    stopping = desk.process()
    waiting = asyncio.ensure_future(stopping.indexing.index(record))
    await until(lambda: desk.index.asked == ["/user/upload"])
    await stopping.indexing.aclose()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert desk.states == ["stored"]
    desk.index.mute.clear()
    assert await desk.sweep() == 1
    assert (desk.states, desk.told) == (["indexed"], ["success"])


@pytest.mark.asyncio
async def test_index_that_stays_down_is_asked_ever_less_often_and_then_the_owner_is_told(
    tmp_path: Path,
) -> None:
    async with working(tmp_path, f"http://127.0.0.1:{free_port()}") as desk:
        await desk.stored()
        pauses = []
        for _ in range(MOST_ATTEMPTS - 1):
            assert await desk.sweep() == 1
            assert desk.states == ["stored"]
            pauses.append(desk.rows()[0].due_at - desk.clock())
            assert await desk.sweep() == 0
            desk.clock.pass_by(pauses[-1])
        assert pauses == sorted(pauses)
        assert desk.told == []
        assert await desk.sweep() == 1
        assert (desk.states, desk.told) == (["failed"], ["warning"])
        desk.clock.pass_by(timedelta(days=30))
        assert await desk.sweep() == 0
        assert len(desk.on_disk) == 1


@pytest.mark.asyncio
async def test_knowledge_that_nobody_waits_for_any_more_is_removed_when_refused(desk: Desk) -> None:
    await desk.stored(chat=None, public=True)
    desk.index.answers["/admin/upload"] = 400, {"error": True}
    assert await desk.sweep() == 1
    desk.nothing_is_left()
    assert desk.told == ["error"]


@pytest.mark.asyncio
async def test_document_that_the_index_adds_after_its_time_limit_is_removed_in_the_end(desk: Desk) -> None:
    record = await desk.stored(chat=None)
    desk.index.resets.add("/user/upload")
    outcome = await desk.process().indexing.index(record)
    assert outcome.error is not None
    # It took the document out, as far as it could know; then the index finished what it was at.
    assert desk.states == ["deleting"]
    assert desk.on_disk == []
    desk.index.private(ADA)["a.txt"] = "late"
    assert await desk.sweep() == 0
    desk.clock.pass_by(UNSURE)
    assert await desk.sweep() == 1
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_removal_goes_on_until_the_index_answers(desk: Desk) -> None:
    record = await desk.stored()
    await desk.sweep()
    files = desk.process()
    desk.index.resets.add("/user/delete")
    found = (await files.of_person(ADA))[0]
    with pytest.raises(UpstreamBroken, match="will be removed"):
        await files.indexing.remove(found)
    desk.index.private(ADA)["a.txt"] = "still there"
    for _ in range(3):
        assert desk.states == ["deleting"]
        desk.clock.pass_by(timedelta(hours=1))
        assert await desk.sweep() == 1
    desk.index.resets.clear()
    desk.heal()
    desk.clock.pass_by(timedelta(hours=1))
    assert await desk.sweep() == 1
    desk.nothing_is_left()
    assert record.id == 1


@pytest.mark.asyncio
async def test_files_of_a_removed_person_leave_index_and_disk(desk: Desk) -> None:
    await desk.stored()
    await desk.sweep()
    with desk.database.transaction() as session:
        user = session.get(User, ADA)
        session.delete(user)
    assert await desk.sweep() == 1
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_who_waits_too_long_for_a_turn_is_told_that_the_index_is_busy(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "MOST_AT_ONCE", 1)
    desk.index.mute.add("/user/upload")
    busy = indexing.Indexing(desk.database, desk.store, desk.library, now=desk.clock, turn_seconds=0.2)
    first, second, knowledge = await desk.stored(), await desk.stored(), await desk.stored(chat=None)
    waiting = asyncio.ensure_future(busy.index(first))
    await until(lambda: desk.index.asked == ["/user/upload"])
    late, refused = await asyncio.gather(busy.index(second), busy.index(knowledge))
    assert isinstance(late.error, Overloaded)
    assert late.later
    assert isinstance(refused.error, Overloaded)
    assert not refused.later
    # Of the one for a conversation the rest comes later, of the other one nothing is left.
    assert desk.states == ["indexing", "stored"]
    desk.index.speak.set()
    assert (await waiting).error is None
    await busy.aclose()


@pytest.mark.asyncio
async def test_file_that_vanished_from_the_disk_is_told_and_not_tried_for_ever(desk: Desk) -> None:
    record = await desk.stored()
    await desk.store.remove(record.path)
    assert await desk.sweep() == 1
    assert (desk.states, desk.told) == (["failed"], ["warning"])


@pytest.mark.asyncio
async def test_patrol_begins_at_the_start_and_outlives_failures(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "SWEEP_SECONDS", 0.02)
    failures = 2

    async def fails_at_first(self: Database, work: Callable[..., Any]) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise RuntimeError("a mistake")
        return await run(self, work)

    await desk.stored()
    run = Database.run
    monkeypatch.setattr(Database, "run", fails_at_first)
    files = desk.process()
    await files.start()
    await until(lambda: desk.states == ["indexed"])


@pytest.mark.asyncio
async def test_error_of_the_index_reaches_whoever_waits_for_it(tmp_path: Path) -> None:
    async with working(tmp_path, f"http://127.0.0.1:{free_port()}") as desk:
        form = written([Part("file", TEXT, "a.txt")])
        sent = Sent(Pieces(form), MULTIPART, len(form))
        with pytest.raises(UpstreamRefused):
            await desk.process().teach(Asker(ADA, is_tutor=True), sent)
        desk.nothing_is_left()
