"""Sign-ins over real databases, as two worker processes see them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from sqlalchemy import Engine, event, func, select, update
from sqlalchemy.orm import Session

from backend.errors import NotAuthenticated
from backend.models import LoginSession, User, login_session
from backend.services.accounts import Account, remove
from backend.services.database import Database
from backend.services.tokens import Tokens

KEY = "a key of the tests, long enough to sign with"
LATER = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def account(engine: Engine) -> Account:
    with Session(engine) as session:
        user = User(email="ann@school.example", password_hash="x")
        session.add(user)
        session.commit()
        return Account(user.id, user.email, user.role)


@pytest_asyncio.fixture
async def workers(engine: Engine) -> AsyncIterator[tuple[Tokens, Tokens]]:
    """Two processes in one: each with its own memory, neither polling by itself."""
    databases = Database(engine, threads=8), Database(engine, threads=8)
    first, second = (Tokens(KEY, database, staleness_seconds=3600) for database in databases)
    await first.start()
    await second.start()
    yield first, second
    await first.aclose()
    await second.aclose()
    for database in databases:
        await database.aclose()


def people(engine: Engine, count: int) -> list[Account]:
    with Session(engine) as session, session.begin():
        users = [User(email=f"u{n}@b.co", password_hash="x") for n in range(count)]
        session.add_all(users)
        session.flush()
        return [Account(user.id, user.email, user.role) for user in users]


def delete(engine: Engine, user_id: int) -> None:
    with Session(engine) as session, session.begin():
        assert remove(session, user_id)


def begin(engine: Engine, account: Account, jti: str, now_us: int) -> int:
    with Session(engine) as session, session.begin():
        begun = login_session.begin(session, account.id, jti, LATER, now_us)
        assert begun is not None
        return begun


def stored(engine: Engine) -> LoginSession:
    with Session(engine) as session:
        return session.scalars(select(LoginSession)).one()


def still_open(engine: Engine) -> set[str | None]:
    with Session(engine) as session:
        return set(session.scalars(select(LoginSession.jti))) - {None}


def test_second_sign_in_replaces_the_first(engine: Engine, account: Account) -> None:
    begin(engine, account, "first", 100)
    begin(engine, account, "second", 200)
    assert (stored(engine).jti, stored(engine).changed_at) == ("second", 200)
    assert "until 2030-01-01T00:00:00Z" in repr(stored(engine))


def test_change_is_newer_even_when_the_clock_went_back(engine: Engine, account: Account) -> None:
    assert begin(engine, account, "first", 100) == 100
    assert begin(engine, account, "second", 50) == 101
    with Session(engine) as session, session.begin():
        assert login_session.end(session, account.id, "second", 50) == 102


def test_sign_out_ends_only_the_session_it_names(engine: Engine, account: Account) -> None:
    begin(engine, account, "second", 100)
    with Session(engine) as session, session.begin():
        assert login_session.end(session, account.id, "first", 200) is None
    assert stored(engine).jti == "second"


def test_signed_out_session_stays_as_a_tombstone(engine: Engine, account: Account) -> None:
    begin(engine, account, "first", 100)
    with Session(engine) as session, session.begin():
        assert login_session.end(session, account.id, None, 200) == 200
        assert login_session.end(session, account.id, None, 300) is None
    assert repr(stored(engine)) == f"<LoginSession user {account.id} signed out>"


def test_lives_of_many_sessions_get_longer_at_once_and_never_shorter(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        users = [User(email=f"u{n}@b.co", password_hash="x") for n in range(450)]
        session.add_all(users)
        session.flush()
        ids = [user.id for user in users]
        for user_id in ids:
            login_session.begin(session, user_id, "j", LATER, 100)
        login_session.end(session, ids[1], None, 200)
    longer = {user_id: LATER + timedelta(seconds=n) for n, user_id in enumerate(ids)}
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    with Session(engine) as session, session.begin():
        login_session.prolong(session, longer | {ids[2]: LATER - timedelta(seconds=1)})
        login_session.prolong(session, {})
    assert len(statements) == 3
    with Session(engine) as session:
        found = {row.user_id: row for row in session.scalars(select(LoginSession))}
    expected = longer | {ids[1]: LATER, ids[2]: LATER}  # signed out; asked for less than it had
    assert {user_id: row.expires_at for user_id, row in found.items()} == expected
    assert {row.changed_at for user_id, row in found.items() if user_id != ids[1]} == {100}


def test_renewed_session_is_told_of_and_an_ended_one_is_not_renewed(engine: Engine, account: Account) -> None:
    begin(engine, account, "first", 100)
    with Session(engine) as session, session.begin():
        assert login_session.renew(session, account.id, "first", LATER + timedelta(hours=1), 90) == 101
        assert login_session.renew(session, account.id, "first", LATER, 300) == 300
        assert login_session.renew(session, account.id, "other", LATER + timedelta(hours=2), 400) is None
    assert stored(engine).expires_at == LATER + timedelta(hours=1)
    begin(engine, account, "second", 500)
    assert stored(engine).expires_at == LATER


@pytest.mark.asyncio
async def test_sign_in_and_deletion_of_the_same_user_never_leave_a_session_open(
    workers: tuple[Tokens, Tokens], engine: Engine
) -> None:
    for account in people(engine, 12):
        token, _ = await asyncio.gather(
            workers[0].issue(account), asyncio.to_thread(delete, engine, account.id), return_exceptions=True
        )
        for worker in workers:
            await worker.refresh()
            if isinstance(token, str):
                with pytest.raises(NotAuthenticated):
                    await worker.verify(token)
    assert still_open(engine) == set()


@pytest.mark.asyncio
async def test_a_password_that_was_changed_after_it_was_checked_opens_nothing(
    workers: tuple[Tokens, Tokens], account: Account, engine: Engine
) -> None:
    checked = replace(account, password_hash="x")
    assert await workers[0].issue(checked)
    with Session(engine) as session, session.begin():
        session.execute(update(User).values(password_hash="y"))
        login_session.end(session, account.id, None, 10**18)
    with pytest.raises(NotAuthenticated):
        await workers[0].issue(checked)
    assert stored(engine).jti is None


@pytest.mark.asyncio
async def test_sign_in_and_a_change_of_the_password_never_leave_a_session_of_the_former_one(
    workers: tuple[Tokens, Tokens], engine: Engine
) -> None:
    accounts = [replace(account, password_hash="x") for account in people(engine, 12)]

    def change(user_id: int) -> None:
        with Session(engine) as session, session.begin():
            session.execute(update(User).where(User.id == user_id).values(password_hash="y"))
            login_session.end(session, user_id, None, 10**18)

    for account in accounts:
        await asyncio.gather(
            workers[0].issue(account), asyncio.to_thread(change, account.id), return_exceptions=True
        )
    assert still_open(engine) == set()


@pytest.mark.asyncio
async def test_deletion_on_one_worker_reaches_the_other_with_its_next_poll(
    workers: tuple[Tokens, Tokens], account: Account, engine: Engine
) -> None:
    token = await workers[0].issue(account)
    await workers[1].verify(token)
    await asyncio.to_thread(delete, engine, account.id)
    await workers[1].refresh()
    with pytest.raises(NotAuthenticated):
        await workers[1].verify(token)


@pytest.mark.asyncio
async def test_token_of_one_worker_is_good_at_once_on_the_other(
    workers: tuple[Tokens, Tokens], account: Account
) -> None:
    first, second = workers
    token = await first.issue(account)
    assert (await second.verify(token)).email == "ann@school.example"


@pytest.mark.asyncio
async def test_sign_out_on_one_worker_reaches_the_other_with_its_next_poll(
    workers: tuple[Tokens, Tokens], account: Account
) -> None:
    first, second = workers
    token = await first.issue(account)
    await second.verify(token)
    await first.revoke(token)
    await second.refresh()
    with pytest.raises(NotAuthenticated):
        await second.verify(token)


@pytest.mark.asyncio
async def test_ban_reaches_every_worker_with_its_next_poll(
    workers: tuple[Tokens, Tokens], account: Account, engine: Engine
) -> None:
    token = await workers[0].issue(account)
    with Session(engine) as session, session.begin():
        session.execute(update(User).values(status="banned"))
    for worker in workers:
        await worker.refresh()
        with pytest.raises(NotAuthenticated):
            await worker.verify(token)


@pytest.mark.asyncio
async def test_concurrent_sign_ins_of_one_user_leave_exactly_one_live(
    workers: tuple[Tokens, Tokens], account: Account, engine: Engine
) -> None:
    tokens = await asyncio.gather(*(workers[n % 2].issue(account) for n in range(20)))
    for worker in workers:
        await worker.refresh()
        results = await asyncio.gather(*(worker.verify(t) for t in tokens), return_exceptions=True)
        alive = [r for r in results if not isinstance(r, NotAuthenticated)]
        assert [getattr(r, "jti", r) for r in alive] == [stored(engine).jti]
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(LoginSession)) == 1


@pytest.mark.asyncio
async def test_first_sign_ins_of_many_users_at_once_all_live(
    workers: tuple[Tokens, Tokens], engine: Engine
) -> None:
    accounts = people(engine, 20)
    tokens = await asyncio.gather(*(workers[0].issue(account) for account in accounts))
    principals = await asyncio.gather(*(workers[1].verify(token) for token in tokens))
    assert [p.user_id for p in principals] == [a.id for a in accounts]
