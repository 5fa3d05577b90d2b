import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest
import pytest_asyncio
from flask import Flask
from sqlalchemy import Engine, create_engine, event, func, select, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from backend.config import Settings, SettingsError, load
from backend.errors import Conflict, StoreUnavailable
from backend.models import User
from backend.services.database import Database, attach, db, upgrade


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    app = Flask("test")
    engine = attach(app, settings(f"sqlite:///{tmp_path}/gateway.db"))
    upgrade(app)
    yield engine
    engine.dispose()


@pytest_asyncio.fixture
async def database(engine: Engine) -> AsyncIterator[Database]:
    database = Database(engine, threads=2, waiting=2)
    yield database
    await database.aclose()


def settings(url: str) -> Settings:
    return load({}, None, database_url=url)


def add_user(session: Session) -> int:
    user = User(email="a@b.co", password_hash="x")
    session.add(user)
    session.flush()
    return user.id


def count_users(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(User)) or 0


class Held:
    """Work that says when it has begun and waits until it may go on."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self, session: Session) -> int:
        session.execute(text("SELECT 1"))
        self.begun.set()
        assert self.go.wait(10)
        return add_user(session)


def test_relative_sqlite_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = attach(Flask("test"), settings("sqlite:///data/some.db"))
    with engine.connect():
        assert (tmp_path / "data" / "some.db").exists()
    engine.dispose()


def test_default_database_lives_in_the_instance_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert attach(Flask("test"), load({}, None)).url.database == str(tmp_path / "instance" / "gateway.db")
    elsewhere = load({}, None, gateway_instance_dir=tmp_path / "elsewhere")
    assert attach(Flask("test"), elsewhere).url.database == str(tmp_path / "elsewhere" / "gateway.db")
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o700


def test_database_url_wins_over_the_instance_folder(tmp_path: Path) -> None:
    url, unused = f"sqlite:///{tmp_path}/own.db", tmp_path / "unused"
    own = load({}, None, database_url=url, gateway_instance_dir=unused)
    assert attach(Flask("test"), own).url.database == f"{tmp_path}/own.db"
    assert not unused.exists()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_is_reached_with_psycopg_3_and_limits(scheme: str) -> None:
    engine = attach(Flask("test"), settings(f"{scheme}://me:secret@db.example/x?options=-csearch_path%3Dy"))
    assert engine.url.drivername == "postgresql+psycopg"
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.size() == 10
    _, arguments = engine.dialect.create_connect_args(engine.url)
    assert arguments["host"] == "db.example"
    seen: dict[str, object] = {}

    def do_connect(_dialect: object, _record: object, _args: object, parameters: dict[str, object]) -> None:
        seen.update(parameters)
        raise ConnectionRefusedError

    event.listen(engine, "do_connect", do_connect)
    with pytest.raises(ConnectionRefusedError):
        engine.connect()
    assert seen["connect_timeout"] == 5
    assert seen["options"] == "-csearch_path=y -c statement_timeout=15s -c lock_timeout=5s"


@pytest.mark.parametrize(
    "url",
    ["nonsense", "mysql://me:secret@host/x", "sqlite://", "sqlite:///:memory:", "sqlite:///file:x?uri=true"],
)
def test_unusable_address_stops_the_start_without_showing_the_secret(url: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        attach(Flask("test"), settings(url))
    assert "secret" not in str(caught.value)


def test_sqlite_connections_have_wal_foreign_keys_and_a_busy_timeout(engine: Engine) -> None:
    with engine.connect() as connection:
        answers = [
            connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        ]
    assert answers == ["wal", 1, 5000]


def test_flask_sqlalchemy_uses_the_models(tmp_path: Path) -> None:
    app = Flask("test")
    engine = attach(app, settings(f"sqlite:///{tmp_path}/gateway.db"))
    upgrade(app)
    with app.app_context():
        add_user(db.session())
        db.session.commit()
        assert db.session.scalars(select(User.email)).all() == ["a@b.co"]
        assert "user" in db.metadata.tables
    engine.dispose()


def test_upgrade_of_an_unreachable_database_says_that_the_store_is_unavailable(tmp_path: Path) -> None:
    app = Flask("test")
    attach(app, settings(f"sqlite:///{tmp_path}/gateway.db"))
    (tmp_path / "gateway.db").mkdir()
    with pytest.raises(StoreUnavailable):
        upgrade(app)


@pytest.mark.asyncio
async def test_work_that_returns_is_committed(database: Database) -> None:
    user_id = await database.run(add_user)
    user = await database.run(lambda session: session.get_one(User, user_id))
    assert user.email == "a@b.co"  # readable after its session


@pytest.mark.asyncio
async def test_work_that_raises_is_rolled_back(database: Database) -> None:
    def fail(session: Session) -> None:
        add_user(session)
        raise LookupError

    with pytest.raises(LookupError):
        await database.run(fail)
    assert await database.run(count_users) == 0


def test_transaction_commits_and_rolls_back(engine: Engine) -> None:
    database = Database(engine, threads=1)
    with database.transaction() as session:
        add_user(session)
    with pytest.raises(Conflict), database.transaction() as session:
        add_user(session)
    with database.transaction() as session:
        assert count_users(session) == 1


@pytest.mark.asyncio
async def test_broken_rule_of_the_tables_is_a_conflict(database: Database) -> None:
    await database.run(add_user)
    with pytest.raises(Conflict):
        await database.run(add_user)


@pytest.mark.asyncio
async def test_database_that_vanished_is_unavailable(
    engine: Engine, tmp_path: Path, database: Database
) -> None:
    engine.dispose()
    (tmp_path / "gateway.db").rename(tmp_path / "moved.db")
    (tmp_path / "gateway.db").mkdir()
    with pytest.raises(StoreUnavailable) as caught:
        await database.run(count_users)
    assert isinstance(caught.value.__cause__, OperationalError)


@pytest.mark.asyncio
async def test_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "gateway.db").write_bytes(b"no database at all, but long enough to be read as one" * 100)
    database = Database(create_engine(f"sqlite:///{tmp_path}/gateway.db"), threads=1)
    with pytest.raises(StoreUnavailable):
        await database.run(count_users)
    await database.aclose()


@pytest.mark.asyncio
async def test_locked_database_is_unavailable_after_a_bounded_wait(engine: Engine, tmp_path: Path) -> None:
    impatient = create_engine(engine.url, connect_args={"timeout": 0.05})
    database = Database(impatient, threads=1)
    with closing(connect(tmp_path / "gateway.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await database.run(add_user)
        assert await database.run(count_users) == 0  # reading needs no lock
        other.execute("ROLLBACK")
    assert await database.run(add_user) == 1
    await database.aclose()


@pytest.mark.asyncio
async def test_pool_without_a_free_connection_is_unavailable(engine: Engine) -> None:
    narrow = create_engine(engine.url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    database = Database(narrow, threads=1)
    with narrow.connect(), pytest.raises(StoreUnavailable):
        await database.run(count_users)
    await database.aclose()


@pytest.mark.asyncio
async def test_mistake_in_a_statement_is_not_called_an_outage(engine: Engine) -> None:
    database = Database(engine, threads=1)

    def mistaken(_session: Session) -> None:
        raise ProgrammingError("SELEKT", None, Exception("syntax error"))

    with pytest.raises(ProgrammingError):
        await database.run(mistaken)
    await database.aclose()


@pytest.mark.asyncio
async def test_more_work_than_the_queue_holds_is_turned_away_at_once(database: Database) -> None:
    held = Held()
    tasks = [asyncio.create_task(database.run(held)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await database.run(count_users)
    held.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await database.run(count_users) == 1


@pytest.mark.asyncio
async def test_cancelled_caller_leaves_begun_work_to_finish_whole(database: Database, engine: Engine) -> None:
    held = Held()
    task = asyncio.create_task(database.run(held))
    assert await asyncio.to_thread(held.begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    held.go.set()
    await database.aclose()
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.checkedout() == 0
    with Session(engine) as session:
        assert count_users(session) == 1


@pytest.mark.asyncio
async def test_cancelled_caller_in_the_queue_leaves_its_work_undone(engine: Engine) -> None:
    database = Database(engine, threads=1, waiting=1)
    held = Held()
    running = asyncio.create_task(database.run(held))
    assert await asyncio.to_thread(held.begun.wait, 10)
    queued = asyncio.create_task(database.run(add_user))
    await asyncio.sleep(0)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    counting = asyncio.create_task(database.run(count_users))  # its place is free again
    await asyncio.sleep(0)
    held.go.set()
    await running
    assert await counting == 1
    await database.aclose()


@pytest.mark.asyncio
async def test_context_of_the_caller_is_seen_in_the_thread(database: Database) -> None:
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")
    request_id.set("r-1")
    thread = threading.get_ident()
    seen = await database.run(lambda _session: (request_id.get(), threading.get_ident()))
    assert seen[0] == "r-1"
    assert seen[1] != thread


@pytest.mark.asyncio
async def test_closed_database_answers_that_it_is_unavailable(engine: Engine) -> None:
    database = Database(engine, threads=1)
    await database.run(count_users)
    await database.aclose()
    with pytest.raises(StoreUnavailable):
        await database.run(count_users)
    assert "gateway.db" in repr(database)


def test_repr_never_shows_the_password() -> None:
    engine = attach(Flask("test"), settings("postgresql://me:secret@db.example/x"))
    assert "secret" not in repr(Database(engine, threads=1))
