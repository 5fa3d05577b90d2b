"""The account database: one engine, transactions in threads, migrations.

The only file under `services` that knows Flask, because Flask-SQLAlchemy and Flask-Migrate live here.
"""

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, TypeVar

from alembic import command
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import URL, Connection, Engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from backend.config import Settings, SettingsError
from backend.errors import Conflict, StoreUnavailable
from backend.models import Base

T = TypeVar("T")

LOCK_SECONDS = 5  # wait for another writer, for a pooled connection and for a connection attempt
STATEMENT_SECONDS = 15  # PostgreSQL ends a statement after this; nothing here takes a second
RUN_SECONDS = 20.0  # queue, connection, lock and statement together, as the caller sees it
MIGRATION_SECONDS = 60  # wait for another process that is migrating
POOL_SIZE = 10
POOL_OVERFLOW = 10  # both together: the default 16 threads never wait for a connection
RECYCLE_SECONDS = 300  # below the idle limit of common firewalls

MIGRATIONS = Path(__file__).parents[1] / "migrations"
MIGRATION_LOCK = 8_203_001  # key of PostgreSQL's advisory lock; any number nobody else uses

db = SQLAlchemy(model_class=Base)


def attach(app: Flask, settings: Settings) -> Engine:
    """Bind the database of the settings to the application, without connecting yet.

    Raises SettingsError for an address that is neither a SQLite file nor PostgreSQL.
    """
    url = _address(settings)
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite:
        Path(url.database or "").parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = _sqlite_options() if sqlite else _postgresql_options(url)
    db.init_app(app)
    # It would look after every request for a session that nobody opens: `Database.run` has its own.
    app.teardown_appcontext_funcs.clear()
    Migrate(db=db, directory=str(MIGRATIONS)).init_app(app, db)
    with app.app_context():
        engine = db.engine
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
    return engine


class Database:
    """Runs short transactions in threads of its own; at most `threads` at work and `waiting` in the queue."""

    def __init__(self, engine: Engine, *, threads: int, waiting: int = 200) -> None:
        self._engine = engine
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="database")
        self._places = BoundedSemaphore(threads + waiting)

    async def run(self, work: Callable[[Session], T]) -> T:
        """Run `work(session)` in one transaction: committed when it returns, rolled back when it raises.

        What is returned outlives the session. A caller that is cancelled leaves a transaction that is still
        queued undone, and one that has begun finishes by itself. Raises StoreUnavailable and Conflict.
        """
        if not self._places.acquire(blocking=False):
            raise StoreUnavailable
        context = contextvars.copy_context()
        try:
            future = self._executor.submit(context.run, self._transact, work)
        except RuntimeError as exc:  # shut down
            self._places.release()
            raise StoreUnavailable from exc
        future.add_done_callback(lambda _: self._places.release())
        try:
            async with asyncio.timeout(RUN_SECONDS):
                return await asyncio.wrap_future(future)
        except TimeoutError as exc:
            raise StoreUnavailable from exc

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction in the calling thread, for the command line and tests, never for the event loop."""
        with _translated(), self._sessions.begin() as session:
            yield session

    async def aclose(self) -> None:
        """Let begun transactions finish, drop queued ones, close every connection."""
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)
        self._engine.dispose()

    def _transact(self, work: Callable[[Session], T]) -> T:
        with self.transaction() as session:
            return work(session)

    def __repr__(self) -> str:
        return f"<Database {self._engine.url!r} {self._engine.pool.status()}>"


def upgrade(app: Flask) -> None:
    """Bring the tables up to date; cheap when they are, safe when several processes start together.

    Raises StoreUnavailable when the database cannot be reached or stays locked.
    """
    with app.app_context(), _translated():
        config = app.extensions["migrate"].migrate.get_config()
        heads = set(ScriptDirectory.from_config(config).get_heads())
        with db.engine.connect() as connection:
            current = set(MigrationContext.configure(connection).get_current_heads())
        if current != heads:
            command.upgrade(config, "head")


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other process migrates beside; committed at the end."""
    with engine.connect() as connection:
        connection.detach()  # its long waits must not return to the pool
        for statement in _MIGRATION_LOCKS[engine.dialect.name]:
            connection.exec_driver_sql(statement)
        yield connection
        connection.commit()


_MIGRATION_LOCKS = {
    "sqlite": (
        f"PRAGMA busy_timeout = {MIGRATION_SECONDS * 1000}",
        # Altering a table on SQLite means copying and dropping it, and with foreign keys on, dropping it
        # deletes the rows that point to it (https://www.sqlite.org/lang_altertable.html#otheralter).
        "PRAGMA foreign_keys = OFF",
        "BEGIN IMMEDIATE",
    ),
    "postgresql": (
        "SET LOCAL statement_timeout = 0",
        f"SET LOCAL lock_timeout = '{MIGRATION_SECONDS}s'",
        f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})",
    ),
}


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError as exc:
        raise Conflict from exc
    except (DataError, NotSupportedError, ProgrammingError):
        raise  # a mistake in this program, not a state of the database
    except (DBAPIError, PoolTimeout) as exc:
        raise StoreUnavailable from exc


def _address(settings: Settings) -> URL:
    written = settings.database_url.get_secret_value()
    try:
        url = make_url(written)
    except ArgumentError:
        raise SettingsError("DATABASE_URL: needs the form sqlite:///path or postgresql://…") from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise SettingsError(f"DATABASE_URL: {url.drivername} is not supported, use SQLite or PostgreSQL")
    if url.database in (None, "", ":memory:") or "uri" in url.query:
        raise SettingsError("DATABASE_URL: SQLite needs a plain file, processes and threads share it")
    path = Path(str(url.database))
    if written == Settings.model_fields["database_url"].default.get_secret_value():
        path = settings.gateway_instance_dir / path.name
    # Flask-SQLAlchemy takes a relative path as relative to Flask's instance folder.
    return url.set(database=str(path.absolute()))


def _sqlite_options() -> dict[str, Any]:
    return {
        "pool_size": POOL_SIZE,
        "max_overflow": POOL_OVERFLOW,
        "pool_timeout": LOCK_SECONDS,
        "connect_args": {"timeout": LOCK_SECONDS},
    }


def _postgresql_options(url: URL) -> dict[str, Any]:
    limits = f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={LOCK_SECONDS}s"
    return {
        "pool_size": POOL_SIZE,
        "max_overflow": POOL_OVERFLOW,
        "pool_timeout": LOCK_SECONDS,
        "pool_pre_ping": True,
        "pool_recycle": RECYCLE_SECONDS,
        "connect_args": {
            "connect_timeout": LOCK_SECONDS,
            "options": f"{url.query.get('options', '')} {limits}".strip(),
            # A server that vanished without a word is noticed well before the kernel's 15 minutes.
            "tcp_user_timeout": STATEMENT_SECONDS * 1000,
        },
    }


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA foreign_keys = ON")
        # Readers and the writer then never wait for each other. Asked first: the switch needs the file alone.
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            cursor.execute("PRAGMA journal_mode = WAL")
    finally:
        cursor.close()
