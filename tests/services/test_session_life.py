"""A session outlives its first token while it is used."""

import asyncio

import jwt
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.errors import NotAuthenticated, StoreUnavailable
from backend.models import LoginSession
from backend.services import claims, live_sessions
from backend.services import tokens as subject
from backend.services.tokens import Tokens
from tests.support.tokens import HOURS, NOW, World, refused, world

__all__ = ["world"]


async def used_once(world: World, seconds: float) -> tuple[Tokens, str]:
    """A worker's tokens, and one that was used so long after its issue."""
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    world.clock.now += seconds
    tokens.used(await tokens.verify(token))
    return tokens, token


async def left(tokens: Tokens, token: str) -> float:
    return (await tokens.remaining(token)).seconds


@pytest.mark.asyncio
async def test_session_in_use_outlives_its_first_token(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    for _ in range(10):  # twenty hours, an hour before the end of each token
        world.clock.now += 2 * HOURS
        tokens.used(await tokens.verify(token))
        remaining = await tokens.remaining(token)
        assert remaining.token is not None
        assert remaining.seconds == 18_000
        token = remaining.token
        world.clock.now += 1
        await tokens.refresh()
    assert (await tokens.verify(token)).user_id == world.ann.id


@pytest.mark.asyncio
async def test_asking_how_long_it_lasts_is_no_use(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    for _ in range(5):
        world.clock.now += 3500
        assert (await tokens.remaining(token)).token is None
    assert await left(tokens, token) == 500
    world.clock.now += 505
    assert await refused(tokens, token) == claims.EXPIRED


@pytest.mark.asyncio
async def test_new_token_lasts_five_hours_from_the_last_use_and_not_from_the_poll(world: World) -> None:
    tokens, token = await used_once(world, 1 * HOURS)
    world.clock.now += 3 * HOURS
    remaining = await tokens.remaining(token)
    assert remaining.seconds == 2 * HOURS
    assert remaining.token is not None
    said = jwt.decode(remaining.token, options={"verify_signature": False})
    assert (said["iat"], said["exp"]) == (NOW + 4 * HOURS, NOW + 6 * HOURS)
    assert said["jti"] == (await tokens.verify(token)).jti


@pytest.mark.asyncio
async def test_earlier_token_of_a_session_stays_good_till_its_own_end(world: World) -> None:
    tokens, first = await used_once(world, 4 * HOURS)
    second = (await tokens.remaining(first)).token
    assert second is not None
    assert (await tokens.verify(first)).jti == (await tokens.verify(second)).jti
    assert await left(tokens, second) == 5 * HOURS
    world.clock.now += 1 * HOURS + 5
    assert await refused(tokens, first) == claims.EXPIRED
    assert (await tokens.verify(second)).user_id == world.ann.id


@pytest.mark.asyncio
@pytest.mark.parametrize(("after_hours", "again"), [(0.99, False), (1.01, True)])
async def test_token_gets_a_successor_once_a_fifth_of_its_life_is_over(
    world: World, after_hours: float, again: bool
) -> None:
    tokens, token = await used_once(world, after_hours * HOURS)
    assert ((await tokens.remaining(token)).token is not None) is again


@pytest.mark.asyncio
async def test_token_that_was_just_used_after_its_issue_gets_no_successor_for_a_second_more(
    world: World,
) -> None:
    tokens, token = await used_once(world, 59)
    world.clock.now += 2 * HOURS
    with world.statements() as statements:
        assert (await tokens.remaining(token)).token is None
    assert statements == []


@pytest.mark.asyncio
async def test_session_ends_after_a_week_however_much_it_is_used(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    began = world.clock.now
    while world.clock.now < began + 8 * 24 * HOURS:
        world.clock.now += 2 * HOURS
        try:
            tokens.used(await tokens.verify(token))
        except NotAuthenticated:
            break
        await tokens.life.write()
        token = (await tokens.remaining(token)).token or token
    assert began + 7 * 24 * HOURS <= world.clock.now <= began + 7 * 24 * HOURS + 2 * HOURS
    said = jwt.decode(token, options={"verify_signature": False})
    assert said["exp"] == began + 7 * 24 * HOURS


@pytest.mark.asyncio
async def test_all_tokens_of_a_session_end_with_it(world: World) -> None:
    first, second = await world.started(), await world.started()
    old = await first.issue(world.ann)
    world.clock.now += 2 * HOURS
    first.used(await first.verify(old))
    new = (await first.remaining(old)).token
    assert new is not None
    await second.verify(new)
    await second.revoke(new)
    await first.refresh()
    for tokens in (first, second):
        assert await refused(tokens, old) == await refused(tokens, new) == subject.ENDED
        with pytest.raises(NotAuthenticated):
            await tokens.remaining(old)


@pytest.mark.asyncio
async def test_session_that_ended_elsewhere_a_moment_ago_gets_no_successor(world: World) -> None:
    first, second = await world.started(), await world.started()
    token = await first.issue(world.ann)
    world.clock.now += 2 * HOURS
    second.used(await second.verify(token))
    await first.revoke(token)
    with pytest.raises(NotAuthenticated):  # the second has not polled since
        await second.remaining(token)


@pytest.mark.asyncio
async def test_use_on_one_worker_prolongs_the_session_on_every_other(world: World) -> None:
    first, second = await world.started(), await world.started()
    token = await first.issue(world.ann)
    await second.verify(token)
    world.clock.now += 2 * HOURS
    first.used(await first.verify(token))
    await first.life.write()
    world.monotonic.now += live_sessions.FULL_LOAD_SECONDS
    await second.refresh()
    assert await left(second, token) == 5 * HOURS


@pytest.mark.asyncio
async def test_uses_of_many_are_written_with_one_statement_and_not_again_within_a_minute(
    world: World,
) -> None:
    tokens = await world.started()
    held = [await tokens.issue(account) for account in (world.ann, world.bob)]
    world.clock.now += 61
    for token in held:
        tokens.used(await tokens.verify(token))
    with world.statements() as statements:
        await tokens.life.write()
        assert len(statements) == 1
        world.clock.now += 59
        for token in held:
            tokens.used(await tokens.verify(token))
        await tokens.life.write()
    assert len(statements) == 1
    with Session(world.engine) as session:
        assert {row.expires_at.timestamp() for row in session.scalars(select(LoginSession))} == {
            NOW + 61 + 18_000
        }


@pytest.mark.asyncio
async def test_call_that_notes_a_use_asks_the_database_nothing(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    with world.statements() as statements:
        for _ in range(100):
            tokens.used(await tokens.verify(token))
    assert statements == []


@pytest.mark.asyncio
async def test_last_uses_are_written_at_the_stop(world: World) -> None:
    tokens = world.worker()
    await tokens.start()
    token = await tokens.issue(world.ann)
    world.clock.now += 30
    tokens.used(await tokens.verify(token))
    await tokens.aclose()
    with Session(world.engine) as session:
        assert session.scalars(select(LoginSession)).one().expires_at.timestamp() == NOW + 30 + 18_000
    assert not [t for t in asyncio.all_tasks() if t.get_name() in ("token poll", "session life")]


@pytest.mark.asyncio
async def test_uses_during_an_outage_are_written_after_it(world: World) -> None:
    tokens, token = await used_once(world, 2 * HOURS)
    world.lose_database()
    with pytest.raises(StoreUnavailable):
        await tokens.life.write()
    # Nobody is thrown out for it: the present token still tells what is left of it.
    assert await tokens.remaining(token) == subject.Remaining(3 * HOURS, None)
    world.find_database()
    await tokens.life.write()
    assert await left(await world.started(), token) == 5 * HOURS


@pytest.mark.asyncio
async def test_use_of_an_ended_session_prolongs_nothing_and_is_forgotten(world: World) -> None:
    tokens = await world.started()
    principal = await tokens.verify(await tokens.issue(world.ann))
    world.clock.now += 2 * HOURS
    tokens.used(principal)
    await tokens.revoke(principal)
    with world.statements() as statements:
        await tokens.life.write()
    assert statements == []
    assert tokens.life._used == {}


@pytest.mark.asyncio
async def test_clock_that_was_set_back_makes_no_token_that_lasts_longer(world: World) -> None:
    tokens, token = await used_once(world, 4 * HOURS)
    world.clock.now -= 2 * HOURS
    remaining = await tokens.remaining(token)
    assert remaining.token is not None
    assert remaining.seconds == 18_000
    assert (await tokens.verify(remaining.token)).user_id == world.ann.id
