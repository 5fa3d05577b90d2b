"""Tokens from sign-in to sign-out, moved clocks, and outages of the database."""

import asyncio
import hashlib
import logging
from collections.abc import Callable

import jwt
import pytest
from sqlalchemy.orm import Session

from backend.errors import NotAuthenticated, StoreUnavailable
from backend.services.accounts import Account
from backend.services.database import Database
from backend.services.recent import Recent
from backend.services.tokens import Principal, Tokens
from tests.support.tokens import HOURS, KEY, NOW, T, World, refused, world

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
