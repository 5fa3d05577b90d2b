import asyncio
import hashlib
import logging
import time
from collections.abc import Callable

import jwt
import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from backend.errors import NotAuthenticated, StoreUnavailable
from backend.models import LoginSession, User
from backend.services import live_sessions
from backend.services import tokens as subject
from backend.services.accounts import Account, remove
from backend.services.database import Database
from backend.services.recent import Recent
from backend.services.tokens import Principal, Tokens
from tests.support.tokens import HOURS, KEY, NOW, Clock, T, World, refused, world

__all__ = ["world"]

# The life of a session


@pytest.mark.asyncio
async def test_issued_token_names_its_user(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    principal = await tokens.verify(token)
    assert principal == Principal(world.ann.id, "ann@school.example", "student", principal.jti, NOW + 18_000)
    assert not principal.is_tutor


@pytest.mark.asyncio
async def test_token_has_the_standard_claims_and_no_email(world: World) -> None:
    token = await (await world.started()).issue(world.ann)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert len(claims.pop("jti")) == 32
    assert claims == {
        "sub": str(world.ann.id),
        "role": "student",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 18_000,
        "iss": "avatar-gateway",
        "aud": "avatar-gateway",
        "type": "access",
    }


@pytest.mark.asyncio
async def test_second_sign_in_ends_the_first_token(world: World) -> None:
    tokens = await world.started()
    first, second = await tokens.issue(world.ann), await tokens.issue(world.ann)
    assert await refused(tokens, first) == "This sign-in has ended. Please sign in again."
    assert (await tokens.verify(second)).user_id == world.ann.id


@pytest.mark.asyncio
async def test_sign_out_ends_the_token_at_once_and_can_be_repeated(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    for _ in range(2):
        await tokens.revoke(token)
        await refused(tokens, token)


@pytest.mark.asyncio
async def test_sign_out_with_an_earlier_token_leaves_the_new_session_alone(world: World) -> None:
    tokens = await world.started()
    first = await tokens.issue(world.ann)
    principal = await tokens.verify(first)
    second = await tokens.issue(world.ann)
    await tokens.revoke(first)
    await tokens.revoke(principal)
    assert (await tokens.verify(second)).user_id == world.ann.id


@pytest.mark.asyncio
async def test_sign_out_with_an_expired_token_still_ends_its_session(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    world.clock.now += 6 * HOURS
    await tokens.revoke(token)
    world.clock.now -= 6 * HOURS
    await refused(tokens, token)


@pytest.mark.asyncio
@pytest.mark.parametrize("junk", ["", "null", "a.b.c", "\ud800", "x" * 10_000])
async def test_sign_out_with_junk_does_nothing_and_asks_nothing(world: World, junk: str) -> None:
    tokens = await world.started()
    with world.statements() as statements:
        await tokens.revoke(junk)
    assert tokens.peek(junk) is None
    assert statements == []


@pytest.mark.asyncio
async def test_all_of_a_user_ends_and_nobody_else(world: World) -> None:
    tokens = await world.started()
    of_ann, of_bob = await tokens.issue(world.ann), await tokens.issue(world.bob)
    await tokens.revoke_user(world.ann.id)
    await tokens.revoke_user(404)
    await refused(tokens, of_ann)
    assert (await tokens.verify(of_bob)).email == "bob@school.example"


@pytest.mark.asyncio
async def test_user_deleted_before_the_token_is_made_is_not_signed_in(world: World) -> None:
    tokens = await world.started()
    with pytest.raises(NotAuthenticated):
        await tokens.issue(Account(404, "gone@school.example", "student"))


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
    go = world.database.halt()
    early = asyncio.create_task(refused(second, dead))
    await world.database.read.wait()
    token = await first.issue(world.ann)
    late = asyncio.create_task(second.verify(token))
    await asyncio.sleep(0)
    go.set()
    await early
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
    go = world.database.halt()
    load = asyncio.create_task(tokens.refresh())
    await world.database.read.wait()
    token = await tokens.issue(world.ann)
    go.set()
    await load
    with world.statements() as statements:
        assert (await tokens.verify(token)).user_id == world.ann.id
    assert statements == []


@pytest.mark.asyncio
async def test_sign_out_while_everything_is_loaded_is_kept(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    for age in (0, 60):  # a poll of the changes, then one of everything
        world.monotonic.now += age
        go = world.database.halt()
        load = asyncio.create_task(tokens.refresh())
        await world.database.read.wait()
        await tokens.revoke(token)
        go.set()
        await load
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


# Time


@pytest.mark.asyncio
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("moved", "sentence"),
    [
        (18_000 + 4.9, None),
        (18_000 + 5, "This sign-in has expired. Please sign in again."),
        (18_000 + 2 * HOURS, "This sign-in has expired. Please sign in again."),
        (-5, None),
        (-5.1, "This sign-in is not valid yet. Please check the clock."),
        (-2 * HOURS, "This sign-in is not valid yet. Please check the clock."),
    ],
)
async def test_moved_clock_is_forgiven_by_exactly_the_leeway(
    world: World, moved: float, sentence: str | None, cached: bool
) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    if cached:
        await tokens.verify(token)
    world.clock.now += moved
    if sentence is None:
        assert (await tokens.verify(token)).user_id == world.ann.id
    else:
        assert await refused(tokens, token) == sentence
        assert tokens.verify_cached(token) is None


@pytest.mark.asyncio
async def test_expired_sessions_leave_memory_with_a_full_load(world: World) -> None:
    tokens = await world.started()
    await tokens.issue(world.ann)
    world.clock.now += 6 * HOURS
    world.monotonic.now += 60
    await tokens.refresh()
    assert repr(tokens).startswith("<Tokens 0 sessions")


@pytest.mark.asyncio
async def test_half_a_minute_without_the_database_stops_the_checks_until_it_is_back(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    await tokens.verify(token)
    world.lose_database()
    world.monotonic.now += 30
    with pytest.raises(StoreUnavailable):
        await tokens.refresh()
    assert (await tokens.verify(token)).user_id == world.ann.id
    world.monotonic.now += 1
    assert tokens.verify_cached(token) is None
    with pytest.raises(StoreUnavailable):
        await tokens.verify(token)
    with pytest.raises(NotAuthenticated):  # what is no token needs no database
        await tokens.verify(token + "x")
    world.find_database()
    await tokens.refresh()
    assert (await tokens.verify(token)).user_id == world.ann.id


@pytest.mark.asyncio
async def test_check_before_the_start_does_not_open(world: World) -> None:
    token = await (await world.started()).issue(world.ann)
    with pytest.raises(StoreUnavailable):
        await world.worker().verify(token)


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
        go = world.database.halt()
        late = asyncio.create_task(tokens.refresh())
        await world.database.read.wait()
        role = "tutor" if age == 0 else "student"
        world.change_user(role=role)
        await tokens.user_changed(world.ann.id)
        go.set()
        await late
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
    go = world.database.halt()
    checking = asyncio.create_task(second.verify(token))
    await world.database.read.wait()
    second._sessions.forget(world.ann.id)
    go.set()
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


# The poll


@pytest.mark.asyncio
async def test_poll_survives_an_outage_and_tells_of_it_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backend.services.live_sessions")
    asked: asyncio.Queue[None] = asyncio.Queue()

    class Watched(Database):
        async def run(self, work: Callable[[Session], T]) -> T:
            try:
                return await super().run(work)
            finally:
                asked.put_nowait(None)

    tokens = Tokens(KEY, Watched(world.engine, threads=1), staleness_seconds=0.001)
    world.lose_database()
    await tokens.start()
    for _ in range(4):
        await asked.get()
    world.find_database()
    async with asyncio.timeout(10):
        while "can be read again" not in caplog.text:
            await asked.get()
            await asyncio.sleep(0)
    token = await tokens.issue(world.ann)
    assert (await tokens.verify(token)).user_id == world.ann.id
    await tokens.aclose()
    await tokens.aclose()
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]
    assert not [t for t in asyncio.all_tasks() if t.get_name() == "token poll"]


@pytest.mark.asyncio
async def test_closing_ends_a_look_up_under_way(world: World) -> None:
    first, second = await world.started(), await world.started()
    token = await first.issue(world.ann)
    world.database.halt()
    waiting = asyncio.create_task(second.verify(token))
    await world.database.read.wait()
    await second.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting


# Memory


@pytest.mark.asyncio
async def test_raw_tokens_are_not_kept(world: World) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    await tokens.verify(token)
    assert hashlib.sha256(token.encode()).digest() in tokens._decoded._entries
    assert token not in str(vars(tokens)) + str(tokens._decoded._entries)


def test_recent_forgets_what_was_used_longest_ago() -> None:
    recent: Recent[str, int] = Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert [recent.get(key) for key in "abc"] == [1, None, 3]
    assert len(recent) == 2
