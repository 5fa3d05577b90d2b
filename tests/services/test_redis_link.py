import asyncio
import logging
import time
from collections.abc import Iterator

import pytest

from backend.config import SettingsError
from backend.services import redis_link
from backend.services.redis_link import RedisAway, RedisLink, linked
from benchmarks.stores import OwnRedis
from tests.support.own_stores import own_redis
from tests.support.peer import until
from tests.support.ports import free_port

pytestmark = pytest.mark.asyncio

SECRET = "hush-hush"


@pytest.fixture
def redis() -> Iterator[OwnRedis]:
    with own_redis() as started:
        yield started


async def ping(link: RedisLink) -> None:
    assert await link.run(lambda: link._redis.ping())


async def test_redis_that_is_there_is_used_from_the_start(redis: OwnRedis) -> None:
    link = linked(redis.url, "key")
    assert not link.available
    with pytest.raises(RedisAway):
        await ping(link)
    await link.start()
    await ping(link)
    await link.aclose()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "redis probe"]


async def test_start_does_not_fail_without_it_and_it_is_found_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "backend.services.redis_link")
    with own_redis() as redis:
        redis.kill()
        link = linked(redis.url, "key")
        await link.start()
        assert not link.available
        redis.start()
        await until(lambda: link.available, 10)
        await ping(link)
        await link.aclose()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


@pytest.mark.parametrize("how", ["kill", "hold"])
async def test_outage_costs_one_wait_and_then_none_and_two_lines_in_the_log(
    redis: OwnRedis, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.INFO, "backend.services.redis_link")
    link = linked(redis.url, "key")
    await link.start()
    redis.kill() if how == "kill" else redis.hold()
    with pytest.raises(RedisAway):
        await ping(link)
    began = time.perf_counter()
    for _ in range(1000):
        with pytest.raises(RedisAway):
            await ping(link)
    assert time.perf_counter() - began < redis_link.COMMAND_SECONDS  # a thousand, and none of them waited
    redis.start() if how == "kill" else redis.resume()
    await until(lambda: link.available, 10)
    await ping(link)
    await link.aclose()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_redis_that_hangs_is_found_out_without_anybody_asking(redis: OwnRedis) -> None:
    link = linked(redis.url, "key")
    await link.start()
    redis.hold()
    await until(lambda: not link.available, 10)
    redis.resume()
    await until(lambda: link.available, 10)
    await link.aclose()


async def test_redis_that_takes_no_writes_is_none(redis: OwnRedis) -> None:
    with own_redis("--replicaof", "127.0.0.1", str(redis.port)) as replica:
        link = linked(replica.url, "key")
        await link.start()
        assert not link.available
        await link.aclose()


async def test_password_is_used_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    with own_redis("--requirepass", SECRET) as redis:
        for password, fits in ((SECRET, True), (f"{SECRET}-not", False)):
            link = linked(redis.url.replace("//", f"//:{password}@"), "key")
            await link.start()
            assert link.available is fits
            assert SECRET not in repr(link)
            await link.aclose()
    assert "Redis does not answer" in caplog.text
    assert SECRET not in caplog.text
    assert str(redis.port) not in caplog.text


async def test_address_that_does_not_exist_is_not_shown_either(caplog: pytest.LogCaptureFixture) -> None:
    link = linked(f"redis://:{SECRET}@127.0.0.1:{free_port()}/0", "key")
    await link.start()
    await link.aclose()
    assert "Redis does not answer" in caplog.text
    assert "127.0.0.1" not in caplog.text


async def test_bad_address_stops_the_start_without_being_shown() -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as caught:
        linked(f"gopher://{SECRET}", "key")
    assert SECRET not in str(caught.value)


async def test_more_calls_than_places_wait_their_turn_and_are_no_outage(redis: OwnRedis) -> None:
    link = linked(redis.url, "key")
    await link.start()

    async def slow() -> str:
        try:
            await link.run(lambda: asyncio.sleep(0.3))
        except RedisAway:
            return "without"
        return "with"

    ended = await asyncio.gather(*(slow() for _ in range(3 * redis_link.PLACES)))
    assert ended.count("with") == redis_link.PLACES
    assert link.available
    await ping(link)
    await link.aclose()


async def test_caller_who_leaves_takes_no_place_along(redis: OwnRedis) -> None:
    link = linked(redis.url, "key")
    await link.start()
    leavers = [asyncio.create_task(link.run(lambda: asyncio.sleep(0.4))) for _ in range(redis_link.PLACES)]
    await asyncio.sleep(0)
    for leaver in leavers:
        leaver.cancel()
    await asyncio.wait(leavers)
    await asyncio.gather(*(ping(link) for _ in range(redis_link.PLACES)))
    await link.aclose()


async def test_gateways_with_different_keys_do_not_meet(redis: OwnRedis) -> None:
    assert linked(redis.url, "one").prefix != linked(redis.url, "other").prefix
    assert "one" not in linked(redis.url, "one").prefix.rpartition(":")[2]


async def test_listener_hears_what_is_published_and_learns_of_the_end(redis: OwnRedis) -> None:
    link = linked(redis.url, "key")
    await link.start()

    async def listen() -> None:
        async with link.subscribed("news") as following:
            await link.publish("news", "hello")
            heard = None
            while heard is None:
                heard = await following(1.0)
            assert heard == b"hello"
            redis.kill()
            for _ in range(20):
                await following(0.5)

    with pytest.raises(RedisAway):
        await listen()
    await link.aclose()
