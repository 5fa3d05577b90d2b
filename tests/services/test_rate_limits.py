import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from backend.config import Settings
from backend.errors import TooManyRequests
from backend.services.rate_limits import RateLimits
from backend.services.redis_link import RedisLink, linked
from backend.services.windows import Windows
from benchmarks.stores import OwnRedis
from tests.support.gateway import KEY, settings_for
from tests.support.own_stores import own_redis

pytestmark = pytest.mark.asyncio

ANN, BOB = "ann@school.example", "bob@school.example"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(
        tmp_path,
        gateway_login_limit="3/minute",
        gateway_code_limit="2/hour",
        gateway_address_limit="8/minute",
        gateway_chat_limit="4/minute",
    )


@pytest.fixture(scope="module")
def redis() -> Iterator[OwnRedis]:
    with own_redis() as started:
        yield started


@pytest_asyncio.fixture
async def link(redis: OwnRedis, request: pytest.FixtureRequest) -> Any:
    opened = linked(redis.url, request.node.name)
    await opened.start()
    yield opened
    await opened.aclose()


@pytest.fixture(params=["memory", "redis"])
def limits(request: pytest.FixtureRequest, settings: Settings) -> RateLimits:
    shared = request.getfixturevalue("link") if request.param == "redis" else None
    return RateLimits(settings, KEY, link=shared)


async def passed(attempt: Callable[[], Awaitable[None]], times: int) -> int:
    """How many of so many attempts were let pass."""
    count = 0
    for _ in range(times):
        try:
            await attempt()
        except TooManyRequests:
            continue
        count += 1
    return count


async def test_sign_ins_are_counted_by_email_however_it_is_spelt(limits: RateLimits) -> None:
    spellings = iter([ANN, f" {ANN.upper()} ", ANN.title(), ANN, ANN])
    assert await passed(lambda: limits.login(next(spellings), "10.0.0.1"), 5) == 3
    await limits.login(BOB, "10.0.0.1")


async def test_one_who_tries_too_often_is_told_when_to_come_back(limits: RateLimits) -> None:
    await passed(lambda: limits.login(ANN, "10.0.0.1"), 3)
    with pytest.raises(TooManyRequests) as caught:
        await limits.login(ANN, "10.0.0.1")
    error = caught.value
    assert (error.status, error.code, error.retryable) == (429, "too_many_requests", True)
    assert error.retry_after_seconds is not None
    assert 1 <= error.retry_after_seconds <= 61
    assert error.msg.endswith("Please wait a moment and try again.")
    assert ANN not in error.msg


async def test_codes_are_counted_apart_from_sign_ins(limits: RateLimits) -> None:
    await passed(lambda: limits.login(ANN, "10.0.0.1"), 3)
    assert await passed(lambda: limits.code(ANN, "10.0.0.2"), 4) == 2


async def test_address_that_tries_many_emails_is_stopped_whatever_it_asks_for(limits: RateLimits) -> None:
    assert await passed(lambda: limits.registration("10.0.0.1"), 4) == 4
    emails = iter(f"u{n}@school.example" for n in range(20))
    assert await passed(lambda: limits.login(next(emails), "10.0.0.1"), 10) == 4
    assert await passed(lambda: limits.code(ANN, "10.0.0.1"), 1) == 0
    await limits.login(ANN, "10.0.0.2")


async def test_address_of_its_own_network_makes_no_new_caller(limits: RateLimits) -> None:
    addresses = iter(f"2001:db8:1:2::{n:x}" for n in range(1, 30))
    assert await passed(lambda: limits.registration(next(addresses)), 12) == 8
    await limits.registration("2001:db8:1:3::1")
    mapped = iter(["10.0.0.9", "::ffff:10.0.0.9"] * 6)
    assert await passed(lambda: limits.registration(next(mapped)), 12) == 8


@pytest.mark.parametrize("address", ["unknown", "", "fe80::1%eth0", "\ud800"])
async def test_address_that_is_none_is_counted_too(limits: RateLimits, address: str) -> None:
    assert await passed(lambda: limits.registration(address), 12) == 8


@pytest.mark.parametrize("email", ["", "x" * 5000, "a@b\x00", "\ud800@b.co", "{}*\n"])
async def test_any_text_can_be_counted(limits: RateLimits, email: str) -> None:
    assert await passed(lambda: limits.login(email, "10.0.0.1"), 5) == 3


async def test_questions_are_counted_by_user(limits: RateLimits) -> None:
    assert await passed(lambda: limits.question(1), 6) == 4
    await limits.question(2)


async def test_attacker_does_not_lock_a_known_user_out_for_ever(settings: Settings) -> None:
    clock = Clock()
    limits = RateLimits(settings, KEY, memory=Windows(monotonic=clock))
    await passed(lambda: limits.login(ANN, "10.6.6.6"), 100)
    clock.now += 61
    await limits.login(ANN, "10.0.0.1")


async def test_time_of_day_that_is_set_back_locks_nobody_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    limits = RateLimits(settings, KEY, memory=Windows(monotonic=clock))
    assert await passed(lambda: limits.login(ANN, "10.0.0.1"), 4) == 3
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 7200)
    clock.now += 61
    await limits.login(ANN, "10.0.0.1")


async def test_processes_that_share_a_redis_count_together(settings: Settings, link: RedisLink) -> None:
    first, second = (RateLimits(settings, KEY, link=link) for _ in range(2))
    assert await passed(lambda: first.login(ANN, "10.0.0.1"), 2) == 2
    assert await passed(lambda: second.login(ANN, "10.0.0.2"), 2) == 1


async def test_neither_emails_nor_addresses_can_be_read_in_the_redis(
    settings: Settings, link: RedisLink
) -> None:
    await RateLimits(settings, KEY, link=link).login(ANN, "10.1.2.3")
    seen = await link.run(lambda: link._redis.keys(f"{link.prefix}:*"))
    assert len(seen) >= 2
    assert not [key for key in seen if b"ann" in key or b"10.1.2.3" in key or b"school" in key]


async def test_redis_that_is_lost_takes_no_limit_away_and_refuses_nobody(
    settings: Settings, redis: OwnRedis
) -> None:
    link = linked(redis.url, "lost")
    await link.start()
    limits = RateLimits(settings, KEY, link=link)
    try:
        redis.kill()
        assert await passed(lambda: limits.login(ANN, "10.0.0.1"), 10) == 3
    finally:
        await link.aclose()
        redis.start()
