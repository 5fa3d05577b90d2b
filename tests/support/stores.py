"""Empty databases for tests: a SQLite file, or a PostgreSQL database of their own."""

import asyncio
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

from backend.config import load
from backend.services.database import Database, attach, upgrade

KINDS = ("sqlite", "postgresql")
POSTGRES = os.environ.get("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/")
HOW_TO_START = (
    "no PostgreSQL answers at the address of TEST_POSTGRES_URL; start one with "
    "`docker run --rm -p 5432:5432 -e POSTGRES_HOST_AUTH_METHOD=trust postgres:16`"
)


@contextlib.contextmanager
def store_url(kind: str, folder: Path) -> Iterator[str]:
    """The address of an empty database; skips without PostgreSQL, fails under CI."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/gateway.db"
        return
    name = f"gateway_test_{secrets.token_hex(6)}"
    try:
        server = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError:
        if os.environ.get("CI") == "true":
            pytest.fail(HOW_TO_START)
        pytest.skip(HOW_TO_START)
    with server:
        server.execute(f"CREATE DATABASE {name}".encode())
        yield f"{POSTGRES.rstrip('/')}/{name}"
        server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


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


@contextlib.asynccontextmanager
async def store(kind: str, folder: Path, *, threads: int = 8) -> AsyncIterator[Database]:
    """A database with all tables."""
    with store_url(kind, folder) as url:
        app = Flask("test")
        if kind == "sqlite":
            (folder / "gateway.db").write_bytes(await asyncio.to_thread(_sqlite_with_tables))
        engine = attach(app, load({}, None, database_url=url, gateway_instance_dir=folder))
        await asyncio.to_thread(upgrade, app)
        database = Database(engine, threads=threads)
        yield database
        await database.aclose()
