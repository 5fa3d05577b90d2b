"""Empty databases for tests: a SQLite file, or a PostgreSQL database of their own."""

import asyncio
import atexit
import contextlib
import os
import secrets
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path

import psycopg
import pytest
from flask import Flask
from sqlalchemy import Engine

from backend.config import load
from backend.services.database import Database, attach, upgrade

KINDS = ("sqlite", "postgresql")
POSTGRES = os.environ.get("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/")
HOW_TO_START = (
    "no PostgreSQL answers at the address of TEST_POSTGRES_URL; start one with "
    "`docker run --rm -p 5432:5432 -e POSTGRES_HOST_AUTH_METHOD=trust postgres:16`"
)


@contextlib.contextmanager
def store_url(kind: str, folder: Path, *, tables: bool = False) -> Iterator[str]:
    """The address of a database, empty or with all tables; skips without PostgreSQL, fails under CI."""
    if kind == "sqlite":
        if tables:
            sqlite_with_tables(folder)
        yield f"sqlite:///{folder}/gateway.db"
        return
    name = _unused_name()
    with _server() as server:
        template = _postgresql_with_tables() if tables else "template1"
        server.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        yield _url(name)
        server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _unused_name() -> str:
    return f"gateway_test_{secrets.token_hex(6)}"


def _url(name: str) -> str:
    return f"{POSTGRES.rstrip('/')}/{name}"


def _server() -> "psycopg.Connection[tuple[object, ...]]":
    try:
        return psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError:
        if os.environ.get("CI") == "true":
            pytest.fail(HOW_TO_START)
        pytest.skip(HOW_TO_START)


def tables_in(url: str, folder: Path) -> None:
    """Make all tables in a database."""
    app = Flask("test")
    engine = attach(app, load({}, None, database_url=url, gateway_instance_dir=folder))
    upgrade(app)
    engine.dispose()


@cache
def _sqlite_with_tables() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.db"
        tables_in(f"sqlite:///{file}", Path(folder))
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return file.read_bytes()


def sqlite_with_tables(folder: Path) -> None:
    """Put a database with all tables into the folder; they are made once a process."""
    (folder / "gateway.db").write_bytes(_sqlite_with_tables())


@cache
def _postgresql_with_tables() -> str:
    """Make a database to copy, which goes with this process."""
    name = _unused_name()
    with _server() as server:
        server.execute(f"CREATE DATABASE {name}".encode())
    atexit.register(_drop, name)
    with tempfile.TemporaryDirectory() as folder:
        tables_in(_url(name), Path(folder))
    return name


def _drop(name: str) -> None:
    with _server() as server:
        server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())


@contextlib.asynccontextmanager
async def store(kind: str, folder: Path, *, threads: int = 8) -> AsyncIterator[Database]:
    """A database with all tables."""
    # Not on the loop, where statements are looked for.
    await asyncio.to_thread(_sqlite_with_tables if kind == "sqlite" else _postgresql_with_tables)
    with store_url(kind, folder, tables=True) as url:
        engine = attach(Flask("test"), load({}, None, database_url=url, gateway_instance_dir=folder))
        database = Database(engine, threads=threads)
        yield database
        await database.aclose()


def bound(app: Flask) -> Engine:
    with app.app_context():
        engine: Engine = app.extensions["sqlalchemy"].engine
    return engine
