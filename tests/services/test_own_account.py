"""What a race or a failing database shows, on SQLite and on PostgreSQL; the rest is in the routes' tests."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from argon2 import PasswordHasher
from sqlalchemy import Engine, select

from backend.errors import BadRequest, Conflict, GatewayError, NotAuthenticated, StoreUnavailable
from backend.models import ActionLog, Notification, User
from backend.models.verification_code import Purpose
from backend.services.accounts import Account, Accounts
from backend.services.administration import Administration
from backend.services.database import Database
from backend.services.own_account import OwnAccount
from backend.services.passwords import Passwords
from backend.services.tokens import Principal, Tokens
from tests.models.conftest import app, database_url, empty_app, engine
from tests.support.desk import KEY, Desk
from tests.support.peer import until

__all__ = ["app", "database_url", "empty_app", "engine"]

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PASSWORD, NEW_PASSWORD = "Right-horse1!", "Other-horse2!"
ANN = "ann@school.example"


class Nothing:
    """Nobody has an avatar or a picture; notes whose avatar was to be let go of."""

    def __init__(self) -> None:
        self.released: list[int] = []

    async def release(self, user_id: int) -> bool:
        self.released.append(user_id)
        return False

    def discard(self, url: str | None) -> None:
        assert url is None


class School:
    """Accounts with everything that their owners need, over one database."""

    def __init__(self, database: Database, *, threads: int = 2) -> None:
        self.database = database
        self.passwords = Passwords(CHEAP, threads=threads)
        self.desk = Desk(database)
        self.tokens = Tokens(KEY, database, staleness_seconds=0.05)
        self.accounts = Accounts(database, self.passwords)
        beside: Any = Nothing()
        self.released = beside.released
        self.administration = Administration(database, self.passwords, self.tokens, beside, beside)
        self.own = OwnAccount(
            database, self.passwords, self.desk.verification, self.tokens, self.administration
        )

    async def person(self, email: str, role: str = "student") -> tuple[Account, Principal]:
        account = await self.accounts.create(email, PASSWORD, role)
        return account, await self.principal(account)

    async def principal(self, account: Account) -> Principal:
        return await self.tokens.verify(await self.tokens.issue(account))

    async def code(self, email: str, purpose: Purpose) -> str:
        self.desk.now += 11
        return await self.desk.send(email, purpose)

    async def all(self, model: type[Any]) -> list[Any]:
        return await self.database.run(lambda session: list(session.scalars(select(model))))


@pytest_asyncio.fixture
async def school(engine: Engine) -> AsyncIterator[School]:
    database = Database(engine, threads=8)
    opened = School(database)
    await opened.tokens.start()
    yield opened
    await opened.administration.aclose()
    await opened.tokens.aclose()
    await opened.passwords.aclose()
    await database.aclose()


async def outcomes(*work: Any) -> list[Any]:
    return list(await asyncio.gather(*work, return_exceptions=True))


@pytest.mark.asyncio
async def test_of_two_registrations_at_once_with_one_code_one_wins_and_none_breaks(school: School) -> None:
    code = await school.code(ANN, "register")
    found = await outcomes(*[school.own.register(ANN, PASSWORD, code) for _ in range(4)])
    made = [outcome for outcome in found if isinstance(outcome, Account)]
    assert [account.role for account in made] == ["student"]
    assert all(isinstance(o, Account | Conflict | NotAuthenticated) for o in found), found
    assert [user.email for user in await school.all(User)] == [ANN]


@pytest.mark.asyncio
async def test_email_that_was_taken_since_the_code_was_sent_is_a_conflict(school: School) -> None:
    code = await school.code(ANN, "register")
    await school.accounts.create(ANN, PASSWORD, "student")
    with pytest.raises(Conflict, match=r"ann@school\.example"):
        await school.own.register(ANN, PASSWORD, code)


@pytest.mark.asyncio
async def test_email_taken_between_the_check_and_the_insert_is_a_conflict(school: School) -> None:
    code = await school.code(ANN, "register")
    hashing = school.passwords.hash

    async def slow(password: str) -> str:
        await school.database.run(lambda session: session.add(User(email=ANN, password_hash="x")))
        return await hashing(password)

    school.passwords.hash = slow  # type: ignore[method-assign]
    with pytest.raises(Conflict, match=r"There is an account for ann@school\.example"):
        await school.own.register(ANN, PASSWORD, code)


@pytest.mark.asyncio
async def test_of_two_changes_at_once_with_one_code_one_wins(school: School) -> None:
    _, ann = await school.person(ANN)
    code = await school.code(ANN, "update_password")
    passwords = [f"Horse-number-{number}" for number in range(3)]
    found = await outcomes(*[school.own.change_password(ann, password, code) for password in passwords])
    assert sum(outcome is None for outcome in found) == 1
    assert sum(isinstance(outcome, BadRequest) for outcome in found) == 2
    winner = passwords[found.index(None)]
    assert (await school.accounts.authenticate(ANN, winner)).email == ANN
    assert len(await school.all(ActionLog)) == 1


@pytest.mark.asyncio
async def test_sign_in_that_began_while_the_password_changed_ends_with_it(school: School) -> None:
    account, ann = await school.person(ANN)
    code = await school.code(ANN, "update_password")
    revoking = school.tokens.revoke_user
    begun: list[str] = []

    async def and_begin(user_id: int) -> None:
        await revoking(user_id)
        if not begun:
            begun.append(await school.tokens.issue(account))

    school.tokens.revoke_user = and_begin  # type: ignore[method-assign]
    await school.own.change_password(ann, NEW_PASSWORD, code)
    assert len(begun) == 1
    with pytest.raises(NotAuthenticated):
        await school.tokens.verify(begun[0])


@pytest.mark.asyncio
async def test_change_that_stands_is_not_called_a_failure_for_what_follows(
    school: School, caplog: pytest.LogCaptureFixture
) -> None:
    _, ann = await school.person(ANN)
    code = await school.code(ANN, "update_password")
    revoking = school.tokens.revoke_user
    calls: list[int] = []

    async def once(user_id: int) -> None:
        calls.append(user_id)
        if len(calls) > 1:
            raise StoreUnavailable
        await revoking(user_id)

    school.tokens.revoke_user = once  # type: ignore[method-assign]
    await school.own.change_password(ann, NEW_PASSWORD, code)
    assert len(calls) == 2
    assert "store_unavailable" in caplog.text
    assert (await school.accounts.authenticate(ANN, NEW_PASSWORD)).email == ANN


@pytest.mark.asyncio
async def test_weak_password_is_refused_before_the_code_is_looked_at(school: School) -> None:
    _, ann = await school.person(ANN)
    code = await school.code(ANN, "update_password")
    with pytest.raises(BadRequest, match="at least 8 characters"):
        await school.own.change_password(ann, "password", code)
    await school.own.change_password(ann, NEW_PASSWORD, code)


@pytest.mark.asyncio
async def test_owner_who_is_gone_is_not_signed_in_any_more(school: School) -> None:
    account, ann = await school.person(ANN)
    codes = [await school.code(ANN, purpose) for purpose in ("update_password", "delete_account")]
    await school.database.run(lambda s: s.delete(s.get_one(User, account.id)))
    with pytest.raises(NotAuthenticated):
        await school.own.change_password(ann, NEW_PASSWORD, codes[0])
    with pytest.raises(NotAuthenticated):
        await school.own.delete(ann, codes[1])
    assert await school.all(ActionLog) == []
    assert await school.all(Notification) == []


@pytest.mark.asyncio
async def test_deleted_account_leaves_a_trail_and_no_sign_in(school: School) -> None:
    account, ann = await school.person(ANN)
    token = await school.tokens.issue(account)
    await school.own.delete(ann, await school.code(ANN, "delete_account"))
    assert school.tokens.verify_cached(token) is None
    with pytest.raises(NotAuthenticated):
        await school.tokens.verify(token)
    [record] = await school.all(ActionLog)
    assert (record.action, record.target_user_id, record.target_user_email) == (
        "delete_account",
        account.id,
        ANN,
    )
    await until(lambda: school.released == [account.id])


@pytest.mark.asyncio
async def test_of_two_tutors_who_leave_at_once_one_stays(school: School) -> None:
    people = [await school.person(f"t{number}@school.example", "tutor") for number in range(2)]
    leaving = [(p, await school.code(p.email, "delete_account")) for _, p in people]
    found = await outcomes(*[school.own.delete(principal, code) for principal, code in leaving])
    assert sorted(type(outcome).__name__ for outcome in found) == ["Conflict", "NoneType"]
    assert len(await school.all(User)) == 1


@pytest.mark.asyncio
async def test_tutor_beside_a_banned_one_is_the_last(school: School) -> None:
    _, ann = await school.person(ANN, "tutor")
    other, _ = await school.person("bob@school.example", "tutor")

    def ban(session: Any) -> None:
        session.get_one(User, other.id).status = "banned"

    await school.database.run(ban)
    with pytest.raises(Conflict, match="last active tutor"):
        await school.own.delete(ann, await school.code(ANN, "delete_account"))


@pytest.mark.asyncio
async def test_change_that_cannot_be_stored_says_so_and_leaves_the_old_password(school: School) -> None:
    _, ann = await school.person(ANN)
    code = await school.code(ANN, "update_password")
    hashing = school.passwords.hash

    async def slow(password: str) -> str:
        hashed = await hashing(password)
        await school.database.aclose()
        return hashed

    school.passwords.hash = slow  # type: ignore[method-assign]
    with pytest.raises(GatewayError) as caught:
        await school.own.change_password(ann, NEW_PASSWORD, code)
    assert caught.value.status == 503
    with school.database.transaction() as session:
        user = session.scalars(select(User)).one()
        assert CHEAP.verify(user.password_hash, PASSWORD)
