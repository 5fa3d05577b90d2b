import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from backend.services import change_feed
from backend.services.change_feed import ChangeFeed
from backend.services.redis_link import RedisLink, linked
from benchmarks.stores import OwnRedis
from tests.support.own_stores import own_redis
from tests.support.peer import until
from tests.support.ports import free_port

NOBODY = f"redis://127.0.0.1:{free_port()}/0"
OTHER = "0123456789abcdef"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Heard(ChangeFeed):
    """A feed that is fed by hand, with a clock of its own."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(linked(NOBODY, "key"), staleness_seconds=0.5, monotonic=self.clock)
        self.users: list[int] = []
        self.on_change = self.users.append
        self.numbers: dict[str, int] = {}

    def hear(self, name: str, what: str = "beat", *, skip: int = 0) -> None:
        number = self.numbers[name] = self.numbers.get(name, 0) + 1 + skip
        self.take(f"{name} {number} {what}".encode())

    def settle(self) -> None:
        """Hear everybody, then ask the database."""
        for name in (self.name, OTHER):
            self.hear(name)
        self.caught_up()
        assert self.complete


# What counts as having missed something


def test_feed_is_not_relied_on_before_it_hears_itself_and_the_database_was_asked_then() -> None:
    feed = Heard()
    feed.hear(OTHER)
    feed.caught_up()
    assert not feed.complete
    feed.hear(feed.name)
    assert not feed.complete
    feed.caught_up()
    assert feed.complete


def test_change_of_another_process_is_passed_on_and_the_own_is_not() -> None:
    feed = Heard()
    feed.settle()
    feed.hear(OTHER, "17")
    feed.hear(feed.name, "18")
    assert feed.users == [17]
    assert feed.complete


def test_missing_number_is_noticed_with_the_next_message() -> None:
    feed = Heard()
    feed.settle()
    feed.hear(OTHER, skip=1)
    assert not feed.complete
    feed.caught_up()
    assert feed.complete


def test_silence_of_anybody_is_an_outage_until_it_ends() -> None:
    for name in ("own", OTHER):
        feed = Heard()
        feed.settle()
        silent = feed.name if name == "own" else OTHER
        talking = OTHER if name == "own" else feed.name
        feed.clock.now += 0.3
        feed.hear(talking)
        assert feed.complete
        feed.clock.now += 0.3
        feed.hear(talking)
        assert not feed.complete
        feed.hear(silent)
        assert feed.complete


def test_process_that_says_goodbye_is_not_missed() -> None:
    feed = Heard()
    feed.settle()
    feed.hear(OTHER, "bye")
    feed.clock.now += 0.6
    feed.hear(feed.name)
    assert feed.complete


def test_process_that_was_killed_is_forgotten_in_the_end() -> None:
    feed = Heard()
    feed.settle()
    feed.clock.now += change_feed.FORGOTTEN_SECONDS
    feed.hear(feed.name)
    assert feed.complete
    feed.hear("f" * 16)
    assert repr(feed).endswith("2 heard>")


def test_process_that_starts_anew_makes_the_others_ask_the_database() -> None:
    feed = Heard()
    feed.settle()
    feed.hear("f" * 16, "17")
    assert feed.users == [17]
    assert not feed.complete


@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: f"{OTHER} 3 {text}".encode()))
def test_nothing_that_anybody_says_harms(message: bytes) -> None:
    feed = Heard()
    feed.settle()
    feed.take(message)
    assert all(0 < user_id < 10**9 for user_id in feed.users)


def test_announcement_that_finds_no_room_is_missed_in_its_number() -> None:
    feed = Heard()
    for user_id in range(1, change_feed.MOST_WAITING + 1):
        feed.announce(user_id)
    assert feed._number == 0
    feed.announce(1)
    assert feed._number == 1


# Over a real Redis


@pytest.fixture
def redis() -> Iterator[OwnRedis]:
    with own_redis() as started:
        yield started


@pytest_asyncio.fixture
async def feeds(redis: OwnRedis) -> AsyncIterator[list[ChangeFeed]]:
    links: list[RedisLink] = [linked(redis.url, "key") for _ in range(2)]
    for link in links:
        await link.start()
    # Beats come three times as often: a busy machine delays them.
    opened = [ChangeFeed(link, staleness_seconds=3.0) for link in links]
    for feed in opened:
        feed.start()
    yield opened
    for feed in opened:
        await feed.aclose()
    for link in links:
        await link.aclose()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("change feed")]


async def settled(feeds: list[ChangeFeed]) -> None:
    async def one(feed: ChangeFeed) -> None:
        while not feed.complete or len(feed._peers) < len(feeds):
            feed.caught_up()
            await asyncio.sleep(0.02)

    async with asyncio.timeout(20):
        await asyncio.gather(*(one(feed) for feed in feeds))


@pytest.mark.asyncio
async def test_others_hear_of_a_change(feeds: list[ChangeFeed]) -> None:
    await settled(feeds)
    heard: list[int] = []
    feeds[1].on_change = heard.append
    feeds[0].announce(7)
    await until(lambda: heard == [7], 10)
    assert feeds[1].complete


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["kill", "hold"])
async def test_listener_knows_that_it_may_have_missed_something_and_recovers(
    feeds: list[ChangeFeed], redis: OwnRedis, how: str
) -> None:
    await settled(feeds)
    waiting = asyncio.create_task(feeds[1].trouble(60))
    redis.kill() if how == "kill" else redis.hold()
    async with asyncio.timeout(20):
        await waiting
    assert not feeds[1].complete
    redis.start() if how == "kill" else redis.resume()
    await until(lambda: all(feed._link.available for feed in feeds), 20)
    await settled(feeds)
    heard: list[int] = []
    feeds[1].on_change = heard.append
    feeds[0].announce(7)
    await until(lambda: heard == [7], 10)


@pytest.mark.asyncio
async def test_what_was_announced_during_an_outage_is_missed_in_its_number(
    feeds: list[ChangeFeed], redis: OwnRedis
) -> None:
    await settled(feeds)
    before = feeds[0]._number
    redis.kill()
    feeds[0].announce(7)
    await until(lambda: feeds[0]._number > before, 10)
    redis.start()
    await until(lambda: feeds[1].name in feeds[1]._peers and not feeds[1].complete, 20)


@pytest.mark.asyncio
async def test_goodbye_is_heard(feeds: list[ChangeFeed]) -> None:
    await settled(feeds)
    name = feeds[0].name
    feeds[0].announce(7)
    heard: list[int] = []
    feeds[1].on_change = heard.append
    await feeds[0].aclose()
    await until(lambda: name not in feeds[1]._peers, 10)
    assert heard == [7]
