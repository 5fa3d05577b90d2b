"""One database file, and the tokens of several processes over it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from flask import Flask
from sqlalchemy import Engine, event, update
from sqlalchemy.orm import Session

from backend.config import load
from backend.errors import NotAuthenticated
from backend.models import User
from backend.services.accounts import Account
from backend.services.database import Database, attach
from backend.services.tokens import Tokens
from tests.support.stores import sqlite_with_tables

T = TypeVar("T")
KEY = "a key of the tests, long enough to sign with"
NOW = 1_800_000_000
HOURS = 3600.0


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Halting(Database):
    """A database whose next answer can be held back after it was read."""

    hold: asyncio.Event | None = None
    read: asyncio.Event

    async def run(self, work: Callable[[Session], T]) -> T:
        hold, self.hold = self.hold, None
        result = await super().run(work)
        if hold is not None:
            self.read.set()
            await hold.wait()
        return result

    def halt(self) -> asyncio.Event:
        self.read = asyncio.Event()
        self.hold = asyncio.Event()
        return self.hold


class World:
    """One database file and what the workers over it share: people and clocks."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.clock = Clock(NOW)
        self.monotonic = Clock(1000)
        self.database = Halting(engine, threads=4)
        with Session(engine) as session:
            users = [User(email=f"{name}@school.example", password_hash="x") for name in ("ann", "bob")]
            session.add_all(users)
            session.commit()
            self.ann, self.bob = (Account(user.id, user.email, user.role) for user in users)

    def worker(self, key: str = KEY, clock: Clock | None = None) -> Tokens:
        """A process's tokens that poll only when told to."""
        return Tokens(
            key, self.database, staleness_seconds=3600, clock=clock or self.clock, monotonic=self.monotonic
        )

    async def started(self, key: str = KEY, clock: Clock | None = None) -> Tokens:
        tokens = self.worker(key, clock)
        await tokens.refresh()
        return tokens

    @asynccontextmanager
    async def amid(self, call: Coroutine[Any, Any, T]) -> AsyncIterator["asyncio.Task[T]"]:
        """While the block runs, the call's answer has been read from the database and is held back."""
        go = self.database.halt()
        task = asyncio.create_task(call)
        await self.database.read.wait()
        try:
            yield task
        finally:
            go.set()
            await task

    @contextmanager
    def statements(self) -> Iterator[list[str]]:
        seen: list[str] = []

        def note(*args: Any) -> None:
            seen.append(args[2])

        event.listen(self.engine, "before_cursor_execute", note)
        yield seen
        event.remove(self.engine, "before_cursor_execute", note)

    def change_user(self, **values: object) -> None:
        values["changed_at"] = datetime.fromtimestamp(self.clock(), UTC)
        with Session(self.engine) as session, session.begin():
            session.execute(update(User).where(User.id == self.ann.id).values(**values))

    def lose_database(self) -> None:
        path = Path(str(self.engine.url.database))
        self.engine.dispose()
        path.rename(path.with_suffix(".away"))
        path.mkdir()

    def find_database(self) -> None:
        path = Path(str(self.engine.url.database))
        path.rmdir()
        path.with_suffix(".away").rename(path)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    await asyncio.to_thread(sqlite_with_tables, tmp_path)
    engine = attach(Flask("test"), load({}, None, database_url=f"sqlite:///{tmp_path}/gateway.db"))
    world = World(engine)
    yield world
    await world.database.aclose()


async def refused(tokens: Tokens, token: str) -> str:
    """The sentence with which a token is refused."""
    with pytest.raises(NotAuthenticated) as caught:
        await tokens.verify(token)
    return caught.value.msg
