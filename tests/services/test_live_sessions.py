"""Workers that hear of each other through a change feed, over one database file and a Redis of their own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from flask import Flask
from sqlalchemy import update
from sqlalchemy.orm import Session

from backend.config import load
from backend.errors import NotAuthenticated
from backend.models import User
from backend.services import live_sessions
from backend.services.accounts import Account, remove
from backend.services.change_feed import ChangeFeed
from backend.services.database import Database, attach, upgrade
from backend.services.redis_link import RedisLink, linked
from backend.services.tokens import Tokens
from benchmarks.stores import OwnRedis
from tests.support.own_stores import own_redis
from tests.support.peer import until

pytestmark = pytest.mark.asyncio

KEY = "a key of the tests, long enough to sign with"
# So rarely do they ask the database that whatever is known sooner was told by the feed.
RARELY_SECONDS = 30.0


@dataclass
class Worker:
    link: RedisLink
    feed: ChangeFeed
    tokens: Tokens

    async def knows(self, token: str) -> bool:
        try:
            await self.tokens.verify(token)
        except NotAuthenticated:
            return False
        return True

    async def refused(self, token: str, seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while await self.knows(token):  # noqa: ASYNC110 - what is waited for knows of no event
                await asyncio.sleep(0.005)

    async def aclose(self) -> None:
        await self.tokens.aclose()
        await self.feed.aclose()
        await self.link.aclose()


@pytest.fixture
def redis() -> Iterator[OwnRedis]:
    with own_redis() as started:
        yield started


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    app = Flask("test")
    engine = attach(app, load({}, None, database_url=f"sqlite:///{tmp_path}/gateway.db"))
    await asyncio.to_thread(upgrade, app)
    opened = Database(engine, threads=4)
    yield opened
    await opened.aclose()


@pytest_asyncio.fixture
async def ann(database: Database) -> Account:
    def add(session: Session) -> Account:
        user = User(email="ann@school.example", password_hash="x")
        session.add(user)
        session.flush()
        return Account(user.id, user.email, "student")

    return await database.run(add)


Start = Callable[[float], "asyncio.Future[Worker]"]


@pytest_asyncio.fixture
async def start(redis: OwnRedis, database: Database) -> AsyncIterator[Callable[[float], Worker]]:
    started: list[Worker] = []

    async def one(staleness_seconds: float) -> Worker:
        link = linked(redis.url, KEY)
        await link.start()
        feed = ChangeFeed(link, staleness_seconds=staleness_seconds)
        feed.start()
        tokens = Tokens(KEY, database, staleness_seconds=staleness_seconds, feed=feed)
        await tokens.start()
        started.append(Worker(link, feed, tokens))
        return started[-1]

    yield one  # type: ignore[misc]
    for worker in started:
        await worker.aclose()


async def together(start: Start, staleness_seconds: float) -> tuple[Worker, Worker]:
    """Two workers that hear each other."""
    first, second = await start(staleness_seconds), await start(staleness_seconds)
    for worker in (first, second):
        worker.feed.announce(999)  # nobody, so that nobody waits for the first beat
    await until(lambda: all(len(worker.feed._peers) == 2 for worker in (first, second)), 10)
    return first, second


async def test_sign_out_is_known_elsewhere_long_before_the_next_poll(start: Start, ann: Account) -> None:
    first, second = await together(start, RARELY_SECONDS)
    token = await first.tokens.issue(ann)
    assert await second.knows(token)
    await first.tokens.revoke(token)
    await second.refused(token)


async def test_second_sign_in_elsewhere_ends_the_first_long_before_the_next_poll(
    start: Start, ann: Account
) -> None:
    first, second = await together(start, RARELY_SECONDS)
    old = await first.tokens.issue(ann)
    assert await second.knows(old)
    new = await second.tokens.issue(ann)
    await first.refused(old)
    assert await first.knows(new)
    assert await second.knows(new)


async def test_new_role_and_deletion_are_known_elsewhere_long_before_the_next_poll(
    start: Start, ann: Account, database: Database
) -> None:
    first, second = await together(start, RARELY_SECONDS)
    token = await first.tokens.issue(ann)
    assert await second.knows(token)
    promote = update(User).where(User.id == ann.id).values(role="tutor")
    await database.run(lambda session: session.execute(promote) and None)
    await first.tokens.user_changed(ann.id)
    async with asyncio.timeout(10):
        while not (await second.tokens.verify(token)).is_tutor:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
    assert await database.run(lambda session: remove(session, ann.id))
    await first.tokens.user_changed(ann.id)
    await second.refused(token)


async def test_good_token_survives_any_number_of_announcements(start: Start, ann: Account) -> None:
    first, second = await together(start, RARELY_SECONDS)
    token = await first.tokens.issue(ann)
    for _ in range(300):
        second.feed.announce(ann.id)
        assert await first.knows(token)
        await asyncio.sleep(0)


@pytest.mark.parametrize("how", ["kill", "hold"])
async def test_feed_that_dies_in_silence_leaves_nobody_in_the_dark_and_signs_nobody_out(
    start: Start, ann: Account, redis: OwnRedis, how: str
) -> None:
    first, second = await together(start, 0.3)
    token = await first.tokens.issue(ann)
    assert await second.knows(token)
    redis.kill() if how == "kill" else redis.hold()
    assert await first.knows(token)
    assert await second.knows(token)
    await first.tokens.revoke(token)
    await second.refused(token)  # by the poll, which is frequent again
    newer = await second.tokens.issue(ann)
    assert await first.knows(newer)
    redis.start() if how == "kill" else redis.resume()
    await until(lambda: first.link.available and second.link.available, 20)
    assert await first.knows(newer)
    assert await second.knows(newer)


class Told(ChangeFeed):
    """A feed that is in trouble when the test says so; `waits` are the seconds it was waited for."""

    def __init__(self, redis: OwnRedis) -> None:
        super().__init__(linked(redis.url, KEY), staleness_seconds=0.01)
        self.waits: list[float] = []
        self.troubled = asyncio.Event()

    async def trouble(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self.troubled.wait()


async def test_polls_wait_for_the_feed_and_are_as_frequent_as_without_it_while_it_is_in_trouble(
    database: Database, redis: OwnRedis
) -> None:
    feed = Told(redis)
    tokens = Tokens(KEY, database, staleness_seconds=0.01, feed=feed)
    await tokens.start()
    await until(lambda: len(feed.waits) == 1, 10)
    assert feed.waits == [live_sessions.RELAXED_SECONDS - 0.01]
    feed.troubled.set()
    await until(lambda: len(feed.waits) > 10, 10)
    await tokens.aclose()


async def test_change_that_is_missed_while_a_poll_runs_needs_another_poll(
    database: Database, redis: OwnRedis
) -> None:
    feed = ChangeFeed(linked(redis.url, KEY), staleness_seconds=60.0)
    tokens = Tokens(KEY, database, staleness_seconds=60.0, feed=feed)
    feed.take(f"{feed.name} 1 beat".encode())
    poll = asyncio.create_task(tokens.refresh())
    await until(lambda: feed.complete, 10)  # it has begun, and is about to read
    feed.take(f"{feed.name} 3 beat".encode())
    await poll
    assert not feed.complete
    await tokens.refresh()
    assert feed.complete
