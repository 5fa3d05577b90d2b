"""Rows of files, on SQLite and on PostgreSQL."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from backend.errors import Conflict, NotAuthenticated, TooLarge
from backend.models import Notification, StoredFile, User
from backend.services import accounts, file_records
from backend.services.database import Database
from backend.services.file_records import WORKING_IN, WORKING_OUT, Notice, Record, Wanted
from backend.services.file_store import Written, new_path
from backend.services.library import PUBLIC, Shelf
from tests.models.conftest import app, database_url, empty_app, engine

__all__ = ["app", "database_url", "empty_app", "engine"]

Run = Callable[[Callable[[Session], Any]], Any]

# Far from the day of any run: the removal of an account goes by the clock.
NOW = datetime(2036, 5, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=2)
MINUTE = timedelta(minutes=1)
QUOTA = 1000
HASH = "0" * 64


@pytest.fixture
def run(engine: Engine) -> Iterator[Run]:
    database = Database(engine, threads=1)

    def transact(work: Callable[[Session], Any]) -> Any:
        with database.transaction() as session:
            return work(session)

    yield transact
    engine.dispose()


def person(run: Run, email: str = "ada@test.local") -> int:
    def work(session: Session) -> int:
        user = User(email=email, password_hash="x")
        session.add(user)
        session.flush()
        return user.id

    return int(run(work))


def wanted(owner_id: int, size: int = 10, name: str = "a.pdf", *, public: bool = False) -> Wanted:
    return Wanted(owner_id, public, name, new_path(), "pdf", size)


def reserved(run: Run, want: Wanted, quota: int = QUOTA) -> Record:
    return run(file_records.reserve(want, quota, LATER))


def accepted(run: Run, want: Wanted, state: str = "stored", due_at: datetime | None = NOW) -> Record:
    reserved(run, want)
    return run(file_records.accept(want.path, Written(want.size, HASH), state, due_at))


def state_of(run: Run, record: Record) -> str | None:
    return run(lambda session: session.scalar(select(StoredFile.state).where(StoredFile.id == record.id)))


def test_names_are_unique_for_a_person_and_for_everybody(run: Run) -> None:
    ada, bob = person(run), person(run, "bob@test.local")
    assert [reserved(run, wanted(ada)).name for _ in range(3)] == ["a.pdf", "a (2).pdf", "a (3).pdf"]
    assert reserved(run, wanted(bob)).name == "a.pdf"
    assert reserved(run, wanted(ada, public=True)).name == "a.pdf"
    assert reserved(run, wanted(bob, public=True)).name == "a (2).pdf"
    assert reserved(run, wanted(ada, name="a%.pdf")).name == "a%.pdf"


def test_quota_counts_what_is_reserved_and_ends_at_its_last_byte(run: Run) -> None:
    ada = person(run)
    first, second = wanted(ada, 600), wanted(ada, 600)
    assert reserved(run, first).size == 600
    # There is room for a part: whether the file fits shows when it is there.
    assert reserved(run, second).size == 400
    with pytest.raises(TooLarge, match="remove some"):
        reserved(run, wanted(ada, 1))
    assert reserved(run, wanted(person(run, "bob@test.local"), 1)).size == 1
    run(file_records.accept(second.path, Written(100, HASH), "kept", None))
    assert reserved(run, wanted(ada, 400)).size == 300


def test_uploads_at_once_cannot_exceed_the_quota_together(engine: Engine, run: Run) -> None:
    ada = person(run)
    database = Database(engine, threads=1)
    start = Barrier(6)

    def upload(_: int) -> int:
        start.wait(10)
        with database.transaction() as session:
            try:
                return file_records.reserve(wanted(ada, 400), QUOTA, LATER)(session).size
            except TooLarge:
                return 0

    with ThreadPoolExecutor(6) as threads:
        sizes = list(threads.map(upload, range(6)))
    assert sorted(sizes, reverse=True) == [400, 400, 200, 0, 0, 0]
    names = run(lambda session: session.scalars(select(StoredFile.name)).all())
    assert len(set(names)) == 3


def test_public_name_that_two_tutors_take_at_once_is_given_once(engine: Engine, run: Run) -> None:
    people = [person(run, f"tutor{number}@test.local") for number in range(4)]
    database = Database(engine, threads=1)
    start = Barrier(4)

    def upload(owner_id: int) -> str:
        start.wait(10)
        for _ in range(4):
            try:
                with database.transaction() as session:
                    return file_records.reserve(wanted(owner_id, public=True), QUOTA, LATER)(session).name
            except Conflict:
                continue
        raise AssertionError("no name was given")

    with ThreadPoolExecutor(4) as threads:
        names = list(threads.map(upload, people))
    assert sorted(names) == ["a (2).pdf", "a (3).pdf", "a (4).pdf", "a.pdf"]


def test_number_of_files_is_bounded_however_small_they_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_records, "MOST_FILES", 2)
    ada = person(run)
    for _ in range(2):
        reserved(run, wanted(ada, 1))
    with pytest.raises(TooLarge, match="2 files"):
        reserved(run, wanted(ada, 1))


def test_nobody_reserves_for_a_deleted_account(run: Run) -> None:
    with pytest.raises(NotAuthenticated):
        reserved(run, wanted(99))


def test_reserving_does_not_look_like_a_change_of_the_account(run: Run) -> None:
    ada = person(run)
    changed = select(User.changed_at)
    before = run(lambda session: session.scalar(changed))
    reserved(run, wanted(ada))
    assert run(lambda session: session.scalar(changed)) == before


def test_file_is_given_up_unless_it_was_accepted(run: Run) -> None:
    ada = person(run)
    one, other = wanted(ada), wanted(ada)
    reserved(run, one)
    accepted(run, other)
    assert run(file_records.give_up(one.path)) is True
    assert run(file_records.give_up(other.path)) is False
    assert run(file_records.give_up(new_path())) is True
    assert [record.path for record in run(file_records.of_shelf(Shelf(ada)))] == [other.path]
    with pytest.raises(NotAuthenticated):
        run(file_records.accept(one.path, Written(1, HASH), "stored", NOW))


def test_work_that_is_due_is_claimed_once_and_again_when_its_lease_is_over(run: Run) -> None:
    ada = person(run)
    record = accepted(run, wanted(ada))
    early = file_records.claim(WORKING_IN, NOW - MINUTE, MINUTE)
    assert run(early) is None
    claimed = run(file_records.claim(WORKING_IN, NOW, MINUTE))
    assert isinstance(claimed, Record)
    assert (claimed.id, claimed.state, claimed.attempts, claimed.in_index) == (record.id, "indexing", 1, True)
    assert run(file_records.claim(WORKING_IN, NOW, MINUTE)) is None
    assert run(file_records.claim(WORKING_OUT, LATER, MINUTE)) is None
    again = run(file_records.claim(WORKING_IN, NOW + MINUTE, MINUTE))
    assert isinstance(again, Record)
    assert again.attempts == 2
    # Whoever was too slow has nothing to say any more.
    assert run(file_records.settle(claimed, state="indexed", due_at=None)) is False
    assert run(file_records.settle(again, state="indexed", due_at=None)) is True
    assert run(file_records.claim(WORKING_IN, LATER, MINUTE)) is None


def test_two_processes_never_claim_the_same_file(engine: Engine, run: Run) -> None:
    ada = person(run)
    for _ in range(12):
        accepted(run, wanted(ada))
    database = Database(engine, threads=1)
    start = Barrier(4)

    def process(_: int) -> list[int]:
        start.wait(10)
        mine = []
        for _ in range(12):
            with database.transaction() as session:
                record = file_records.claim(WORKING_IN, NOW, MINUTE)(session)
            if record is not None:
                mine.append(record.id)
        return mine

    with ThreadPoolExecutor(4) as threads:
        claimed = [number for numbers in threads.map(process, range(4)) for number in numbers]
    assert len(claimed) == len(set(claimed)) == 12


def test_named_file_is_claimed_for_whoever_waits_for_it(run: Run) -> None:
    ada = person(run)
    record = accepted(run, wanted(ada), due_at=LATER)
    assert isinstance(run(file_records.claim(("stored",), NOW, MINUTE, record.id)), Record)
    assert run(file_records.claim(("stored",), NOW, MINUTE, record.id)) is None


def test_end_is_told_in_the_transaction_that_makes_it_true(run: Run) -> None:
    ada = person(run)
    record = accepted(run, wanted(ada), "indexing")
    notice = Notice("Document indexed", "a.pdf can be used.", "success")
    count = select(func.count()).select_from(Notification).where(Notification.user_id == ada)
    assert run(file_records.settle(replace(record, attempts=5), notice, state="indexed")) is False
    assert run(lambda session: session.scalar(count)) == 0
    assert run(file_records.settle(record, notice, state="indexed", due_at=None)) is True
    assert run(lambda session: session.scalar(count)) == 1


def test_files_of_a_removed_person_are_left_to_be_cleared_away(run: Run) -> None:
    ada = person(run)
    private, public = accepted(run, wanted(ada)), accepted(run, wanted(ada, public=True), "indexed", None)
    arriving = reserved(run, wanted(ada))
    assert run(lambda session: accounts.remove(session, ada)) is True
    assert state_of(run, public) == "indexed"
    assert state_of(run, private) == state_of(run, arriving) == "deleting"
    # What is on its way belongs to whoever receives it, who finds it gone.
    first = run(file_records.claim(WORKING_OUT, datetime.now(UTC) + MINUTE, timedelta(days=400)))
    assert isinstance(first, Record)
    assert first.id == private.id
    with pytest.raises(NotAuthenticated):
        run(file_records.accept(arriving.path, Written(1, HASH), "stored", NOW))
    assert run(file_records.give_up(arriving.path)) is True
    # Nobody is told who is not there any more.
    run(file_records.drop(first, Notice("Gone", "It is gone.")))
    assert state_of(run, private) is None


def test_file_accepted_while_its_owner_was_being_removed_is_found(run: Run) -> None:
    ada = person(run)
    run(lambda session: accounts.remove(session, ada))
    row = StoredFile(
        owner_id=ada, name="a.pdf", path=new_path(), kind="pdf", size=1, sha256=HASH, state="indexed"
    )
    run(lambda session: session.add(row))
    assert run(file_records.mark_orphans(NOW)) == 1
    assert run(file_records.mark_orphans(NOW)) == 0
    claimed = run(file_records.claim(WORKING_OUT, NOW, MINUTE))
    assert isinstance(claimed, Record)
    assert claimed.shelf == Shelf(ada)


def test_lists_show_accepted_files_newest_first(run: Run) -> None:
    ada = person(run)
    reserved(run, wanted(ada))
    older, newer = accepted(run, wanted(ada)), accepted(run, wanted(ada))
    public = accepted(run, wanted(ada, public=True))
    assert [record.id for record in run(file_records.of_shelf(Shelf(ada)))] == [newer.id, older.id]
    assert [record.id for record in run(file_records.of_shelf(PUBLIC))] == [public.id]
    assert isinstance(run(file_records.by_id(older.id)), Record)
    assert run(file_records.by_id(999)) is None
