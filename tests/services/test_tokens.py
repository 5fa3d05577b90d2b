import asyncio
import functools
import hashlib
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import jwt
import pytest
import pytest_asyncio
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, event, select, update
from sqlalchemy.orm import Session

from backend.config import Settings, SettingsError, load
from backend.errors import NotAuthenticated, StoreUnavailable
from backend.models import LoginSession, User, login_session
from backend.services import claims, live_sessions
from backend.services import tokens as subject
from backend.services.accounts import Account, remove
from backend.services.database import Database, attach, upgrade
from backend.services.recent import Recent
from backend.services.signing_key import load_key
from backend.services.tokens import Principal, Tokens
from tests.support import forgeries
from tests.support.forgeries import encoded

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
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
    app = Flask("test")
    engine = attach(app, load({}, None, database_url=f"sqlite:///{tmp_path}/gateway.db"))
    await asyncio.to_thread(upgrade, app)
    world = World(engine)
    yield world
    await world.database.aclose()


async def refused(tokens: Tokens, token: str) -> str:
    """The sentence with which a token is refused."""
    with pytest.raises(NotAuthenticated) as caught:
        await tokens.verify(token)
    return caught.value.msg


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


# A life that slides


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
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    world.clock.now += 1 * HOURS
    tokens.used(await tokens.verify(token))
    world.clock.now += 3 * HOURS
    remaining = await tokens.remaining(token)
    assert remaining.seconds == 2 * HOURS
    assert remaining.token is not None
    said = jwt.decode(remaining.token, options={"verify_signature": False})
    assert (said["iat"], said["exp"]) == (NOW + 4 * HOURS, NOW + 6 * HOURS)
    assert said["jti"] == (await tokens.verify(token)).jti


@pytest.mark.asyncio
async def test_earlier_token_of_a_session_stays_good_till_its_own_end(world: World) -> None:
    tokens = await world.started()
    first = await tokens.issue(world.ann)
    world.clock.now += 4 * HOURS
    tokens.used(await tokens.verify(first))
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
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    world.clock.now += after_hours * HOURS
    tokens.used(await tokens.verify(token))
    assert ((await tokens.remaining(token)).token is not None) is again


@pytest.mark.asyncio
async def test_token_that_was_just_used_after_its_issue_gets_no_successor_for_a_second_more(
    world: World,
) -> None:
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    world.clock.now += 59
    tokens.used(await tokens.verify(token))
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
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    world.clock.now += 2 * HOURS
    tokens.used(await tokens.verify(token))
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
    tokens = await world.started()
    token = await tokens.issue(world.ann)
    world.clock.now += 4 * HOURS
    tokens.used(await tokens.verify(token))
    world.clock.now -= 2 * HOURS
    remaining = await tokens.remaining(token)
    assert remaining.token is not None
    assert remaining.seconds == 18_000
    assert (await tokens.verify(remaining.token)).user_id == world.ann.id


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


# Forgeries

GOOD = {
    "sub": "1",
    "role": "student",
    "jti": "0" * 32,
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 18_000,
    "iss": "avatar-gateway",
    "aud": "avatar-gateway",
    "type": "access",
}
signed = functools.partial(forgeries.signed, default_key=KEY)
FORGED = forgeries.forgeries(GOOD, KEY)


def test_there_are_more_forgeries_than_anybody_asks_for() -> None:
    assert len(FORGED) >= 49
    assert len(set(FORGED.values())) == len(FORGED)


@pytest_asyncio.fixture
async def guarded(world: World) -> Tokens:
    """Knows one live session: the one that GOOD and the forgeries name."""
    assert world.ann.id == int(str(GOOD["sub"]))
    until = datetime.fromtimestamp(NOW + 18_000, UTC)
    with world.database.transaction() as session:
        login_session.begin(session, world.ann.id, str(GOOD["jti"]), until, NOW)
    return await world.started()


@pytest.mark.asyncio
async def test_token_that_the_forgeries_imitate_is_good(guarded: Tokens) -> None:
    assert (await guarded.verify(signed(GOOD))).email == "ann@school.example"
    assert (await guarded.verify(jwt.encode(GOOD, KEY))).email == "ann@school.example"


@pytest.mark.asyncio
@pytest.mark.parametrize("name", FORGED)
async def test_forged_token_is_refused_with_a_plain_sentence(guarded: Tokens, name: str) -> None:
    await guarded.verify(signed(GOOD))  # the true one being cached helps no forgery
    for _ in range(2):
        sentence = await refused(guarded, FORGED[name])
        assert sentence in {claims.INVALID, claims.EXPIRED, claims.EARLY, subject.ENDED}
        assert guarded.verify_cached(FORGED[name]) is None


@pytest.mark.asyncio
async def test_token_of_another_user_with_a_live_jti_is_refused(world: World) -> None:
    tokens = await world.started()
    principal = await tokens.verify(await tokens.issue(world.ann))
    await refused(tokens, signed(GOOD | {"sub": str(world.bob.id), "jti": principal.jti}))


@settings(deadline=None)  # an event loop each
@given(st.one_of(st.text(), st.binary().map(lambda raw: f"{encoded(raw)}.{encoded(raw)}.{'A' * 43}")))
def test_no_text_is_a_token(text: str) -> None:
    tokens = Tokens(KEY, cast(Database, None), staleness_seconds=1)
    assert tokens.peek(text) is None
    with pytest.raises(NotAuthenticated):
        asyncio.run(tokens.verify(text))


@given(st.data())
def test_no_changed_character_goes_unnoticed(data: st.DataObject) -> None:
    token = signed(GOOD)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(max_codepoint=0x17F).filter(lambda c: c != token[place]))
    tokens = Tokens(KEY, cast(Database, None), staleness_seconds=1)
    assert tokens.peek(token) is not None
    assert tokens.peek(token[:place] + other + token[place + 1 :]) is None


@given(st.dictionaries(st.sampled_from([*GOOD]), st.from_type(str) | st.integers() | st.floats() | st.none()))
def test_no_signed_payload_makes_anything_but_claims_or_a_refusal(changes: dict[str, object]) -> None:
    Tokens(KEY, cast(Database, None), staleness_seconds=1).peek(signed(GOOD | changes))


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


# The key


def keyed(folder: Path, key: str | None = None) -> Settings:
    return load({}, None, gateway_instance_dir=folder, jwt_secret_key=key)


def test_key_of_the_settings_wins_and_makes_no_file(tmp_path: Path) -> None:
    assert load_key(keyed(tmp_path, KEY)) == KEY
    assert list(tmp_path.iterdir()) == []


def test_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    key = load_key(keyed(tmp_path / "instance"))
    assert len(key) == 64
    assert load_key(keyed(tmp_path / "instance")) == key
    assert [path.name for path in (tmp_path / "instance").iterdir()] == ["jwt.key"]
    assert stat.S_IMODE((tmp_path / "instance" / "jwt.key").stat().st_mode) == 0o600


def test_processes_that_start_together_agree_on_the_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from backend.config import load;"
        "from backend.services.signing_key import load_key; sys.stdin.readline();"
        "print(load_key(load({}, None, gateway_instance_dir=Path(sys.argv[1]))))"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    keys = {worker.communicate(timeout=60)[0].strip() for worker in workers}
    assert keys == {load_key(keyed(tmp_path))}


def test_key_file_that_others_can_read_is_closed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = load_key(keyed(tmp_path))
    (tmp_path / "jwt.key").chmod(0o644)
    assert load_key(keyed(tmp_path)) == key
    assert stat.S_IMODE((tmp_path / "jwt.key").stat().st_mode) == 0o600
    assert "could be read by others (mode 644)" in caplog.text
    assert key not in caplog.text


@pytest.mark.parametrize("content", [b"", b"too short", b"\xff" * 40])
def test_unusable_key_file_stops_the_start_without_showing_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "jwt.key").write_bytes(content)
    (tmp_path / "jwt.key").chmod(0o600)
    with pytest.raises(SettingsError, match="JWT_SECRET_KEY") as caught:
        load_key(keyed(tmp_path))
    assert "too short" not in str(caught.value)


def test_instance_folder_that_is_a_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "instance").write_text("")
    with pytest.raises(SettingsError, match="JWT_SECRET_KEY"):
        load_key(keyed(tmp_path / "instance"))
