"""What each worker learns of tokens that others gave or ended, and of users who change."""

import asyncio
import time

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from backend.errors import StoreUnavailable
from backend.models import LoginSession, User
from backend.services import live_sessions
from backend.services import tokens as subject
from backend.services.accounts import remove
from tests.support.tokens import HOURS, NOW, Clock, World, refused, world

__all__ = ["world"]


# Several processes


@pytest.mark.asyncio
async def test_token_of_another_worker_is_accepted_with_one_query(world: World) -> None:
    first, second = await world.started(), await world.started()
    token = await first.issue(world.ann)
    with world.statements() as statements:
        await asyncio.gather(*(second.verify(token) for _ in range(50)))
    assert len(statements) == 1


@pytest.mark.asyncio
async def test_common_case_asks_the_database_nothing(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    with world.statements() as statements:
        for _ in range(100):
            assert await tokens.verify(token) == tokens.verify_cached(token)
    assert statements == []


@pytest.mark.asyncio
async def test_worker_that_starts_later_knows_every_session(world: World) -> None:
    token = await (await world.started()).issue(world.ann)
    late = await world.started()
    with world.statements() as statements:
        assert (await late.verify(token)).user_id == world.ann.id
    assert statements == []


@pytest.mark.asyncio
async def test_token_revoked_elsewhere_is_refused_after_a_poll(world: World) -> None:
    first, second = await world.started(), await world.started()
    token = await first.issue(world.ann)
    await second.verify(token)
    await first.revoke(token)
    await second.refresh()
    await refused(second, token)


@pytest.mark.asyncio
@pytest.mark.parametrize("drift", [-9.0, 9.0, -2 * HOURS, 2 * HOURS])
async def test_worker_whose_clock_drifts_still_learns_of_every_change(world: World, drift: float) -> None:
    drifting = Clock(NOW)
    first, second = await world.started(), await world.started(clock=drifting)
    token = await first.issue(world.ann)
    await second.verify(token)
    drifting.now += drift
    await second.refresh()
    drifting.now = NOW
    await first.revoke(token)
    await second.refresh()
    await refused(second, token)


@pytest.mark.asyncio
async def test_change_dated_before_the_last_poll_is_learnt_with_the_next(world: World) -> None:
    behind, tokens = await world.started(clock=Clock(NOW - 9)), await world.started()
    token = await behind.issue(world.ann)
    await tokens.refresh()
    with world.statements() as statements:
        assert (await tokens.verify(token)).user_id == world.ann.id
    assert statements == []


@pytest.mark.asyncio
async def test_sign_out_by_a_worker_whose_clock_is_behind_is_the_newer_state(world: World) -> None:
    first, second = await world.started(), await world.started(clock=Clock(NOW - 3))
    token = await first.issue(world.ann)
    await second.revoke(token)
    await first.refresh()
    await refused(first, token)


@pytest.mark.asyncio
async def test_dead_token_costs_one_query_and_then_none(world: World) -> None:
    first, second = await world.started(), await world.started()
    dead = await first.issue(world.ann)
    await first.issue(world.ann)
    with world.statements() as statements:
        await asyncio.gather(*(refused(second, dead) for _ in range(20)))
        assert len(statements) == 1
        await refused(second, dead)
        await second.revoke(dead)
    assert len(statements) == 1


@pytest.mark.asyncio
async def test_token_issued_during_a_look_up_is_not_judged_by_what_that_look_up_read(world: World) -> None:
    first, second = await world.started(), await world.started()
    dead = await first.issue(world.ann)
    await first.revoke(dead)
    async with world.amid(refused(second, dead)):
        token = await first.issue(world.ann)
        late = asyncio.create_task(second.verify(token))
        await asyncio.sleep(0)
    assert (await late).user_id == world.ann.id


@pytest.mark.asyncio
async def test_one_caller_who_leaves_does_not_take_the_look_up_from_the_others(world: World) -> None:
    first, second = await world.started(), await world.started()
    token = await first.issue(world.ann)
    go = world.database.halt()
    leaver, stayer = (asyncio.create_task(second.verify(token)) for _ in range(2))
    await world.database.read.wait()
    leaver.cancel()
    go.set()
    assert (await stayer).user_id == world.ann.id


@pytest.mark.asyncio
async def test_sign_in_while_everything_is_loaded_is_kept(world: World) -> None:
    tokens = world.worker()
    async with world.amid(tokens.refresh()):
        token = await tokens.issue(world.ann)
    with world.statements() as statements:
        assert (await tokens.verify(token)).user_id == world.ann.id
    assert statements == []


@pytest.mark.asyncio
async def test_sign_out_while_everything_is_loaded_is_kept(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    for age in (0, 60):  # a poll of the changes, then one of everything
        world.monotonic.now += age
        async with world.amid(tokens.refresh()):
            await tokens.revoke(token)
        await refused(tokens, token)
        token = await tokens.issue(world.ann)


# What the database knows of the user


@pytest.mark.asyncio
async def test_role_is_the_databases_and_not_the_tokens(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    world.clock.now += 60
    await tokens.refresh()
    world.change_user(role="tutor", email="ann.lee@school.example")
    await tokens.refresh()
    principal = await tokens.verify(token)
    assert principal.is_tutor
    assert principal.email == "ann.lee@school.example"


@pytest.mark.asyncio
async def test_banned_user_is_refused_without_queries_until_the_ban_ends(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    world.clock.now += 60
    await tokens.refresh()
    world.change_user(status="banned")
    await tokens.refresh()
    with world.statements() as statements:
        await refused(tokens, token)
    assert statements == []
    world.change_user(status="active")
    await tokens.refresh()
    assert (await tokens.verify(token)).user_id == world.ann.id


@pytest.mark.asyncio
async def test_deleted_user_is_refused_after_the_next_full_load(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    with Session(world.engine) as session, session.begin():
        session.execute(delete(User).where(User.id == world.ann.id))
    world.monotonic.now += live_sessions.FULL_LOAD_SECONDS
    await tokens.refresh()
    await refused(tokens, token)


@pytest.mark.asyncio
async def test_everybody_can_sign_in_again_after_the_table_was_emptied_by_hand(world: World) -> None:
    first, second = await world.started(), await world.started()
    await second.verify(await first.issue(world.ann))
    with Session(world.engine) as session, session.begin():
        session.execute(delete(LoginSession))
    world.clock.now += 1
    token = await first.issue(world.ann)
    assert (await second.verify(token)).user_id == world.ann.id


# A user who changes


@pytest.mark.asyncio
async def test_worker_that_changed_a_user_knows_at_once(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    world.change_user(role="tutor")
    await tokens.user_changed(world.ann.id)
    assert (await tokens.verify(token)).is_tutor
    world.change_user(status="banned")
    await tokens.user_changed(world.ann.id)
    assert await refused(tokens, token) == subject.ENDED


@pytest.mark.asyncio
async def test_role_read_before_a_change_does_not_come_back_after_it(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    for age in (0, 60):  # a poll of the changes, then one of everything
        world.monotonic.now += age
        role = "tutor" if age == 0 else "student"
        async with world.amid(tokens.refresh()):
            world.change_user(role=role)
            await tokens.user_changed(world.ann.id)
        assert (await tokens.verify(token)).role == role


@pytest.mark.asyncio
async def test_change_that_cannot_be_read_back_is_not_covered_by_what_was_known(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    world.change_user(status="banned")
    world.lose_database()
    with pytest.raises(StoreUnavailable):
        await tokens.user_changed(world.ann.id)
    with pytest.raises(StoreUnavailable):
        await tokens.verify(token)
    world.find_database()
    await refused(tokens, token)


@pytest.mark.asyncio
async def test_good_token_is_not_refused_because_a_change_overtook_its_look_up(world: World) -> None:
    first, second = await world.started(), await world.started()
    token = await first.issue(world.ann)
    async with world.amid(second.verify(token)) as checking:
        second._sessions.forget(world.ann.id)
    assert (await checking).user_id == world.ann.id


@pytest.mark.asyncio
async def test_deleted_user_is_refused_at_once_here_and_with_the_next_poll_elsewhere(world: World) -> None:
    world.clock.now = time.time()  # the deletion is dated by it
    first, second = await world.started(), await world.started()
    token = await first.issue(world.ann)
    await second.verify(token)
    assert await world.database.run(lambda session: remove(session, world.ann.id))
    await first.user_changed(world.ann.id)
    await second.refresh()
    for tokens in (first, second):
        assert await refused(tokens, token) == subject.ENDED
