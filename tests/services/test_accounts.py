import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from argon2 import PasswordHasher
from flask import Flask
from sqlalchemy import select, update

from backend.config import load
from backend.errors import BadRequest, Conflict, NotAuthenticated
from backend.models import User
from backend.services.accounts import Account, Accounts, require_strength
from backend.services.database import Database, attach, upgrade
from backend.services.passwords import Passwords

NOW = 1_800_000_000.0
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    app = Flask("test")
    engine = attach(app, load({}, None, database_url=f"sqlite:///{tmp_path}/gateway.db"))
    await asyncio.to_thread(upgrade, app)
    database = Database(engine, threads=4)
    yield database
    await database.aclose()


@pytest_asyncio.fixture
async def accounts(database: Database) -> AsyncIterator[Accounts]:
    passwords = Passwords(CHEAP)
    yield Accounts(database, passwords, lambda: NOW)
    await passwords.aclose()


async def stored(database: Database) -> User:
    return await database.run(lambda session: session.scalars(select(User)).one())


@pytest.mark.asyncio
async def test_new_account_can_sign_in_and_only_that_sets_last_login(
    accounts: Accounts, database: Database
) -> None:
    made = await accounts.create("ann@school.example", "Secret-pass", "tutor")
    assert (await stored(database)).last_login is None
    assert await accounts.authenticate("ann@school.example", "Secret-pass") == made
    assert made == Account(1, "ann@school.example", "tutor")
    assert (await stored(database)).last_login == datetime.fromtimestamp(NOW, UTC)


@pytest.mark.asyncio
async def test_email_is_the_same_however_it_is_spelt(accounts: Accounts) -> None:
    await accounts.create("  Ann@School.Example ", "Secret-pass", "student")
    assert (await accounts.authenticate("ANN@school.example", "Secret-pass")).email == "ann@school.example"
    with pytest.raises(Conflict, match=r"ann@school\.example"):
        await accounts.create("ann@SCHOOL.example", "Secret-pass", "student")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("ann@school.example", "wrong-pass"),
        ("ann@school.example", ""),
        ("bob@school.example", "Secret-pass"),
        ("not an address", "Secret-pass"),
        ("nul\x00@school.example", "Secret-pass"),
        ("\ud800@school.example", "Secret-pass"),
        ("", ""),
    ],
)
async def test_bad_credentials_are_refused_with_one_sentence(
    accounts: Accounts, database: Database, email: str, password: str
) -> None:
    await accounts.create("ann@school.example", "Secret-pass", "student")
    with pytest.raises(NotAuthenticated) as caught:
        await accounts.authenticate(email, password)
    assert caught.value.msg == "Wrong email or password."
    assert (await stored(database)).last_login is None


@pytest.mark.asyncio
async def test_banned_user_hears_the_same_as_a_stranger(accounts: Accounts, database: Database) -> None:
    await accounts.create("ann@school.example", "Secret-pass", "student")
    await database.run(lambda session: session.execute(update(User).values(status="banned")) and None)
    with pytest.raises(NotAuthenticated, match=r"^Wrong email or password\.$"):
        await accounts.authenticate("ann@school.example", "Secret-pass")


@pytest.mark.asyncio
async def test_inactive_user_may_sign_in(accounts: Accounts, database: Database) -> None:
    await accounts.create("ann@school.example", "Secret-pass", "student")
    await database.run(lambda session: session.execute(update(User).values(status="inactive")) and None)
    assert (await accounts.authenticate("ann@school.example", "Secret-pass")).role == "student"


@pytest.mark.asyncio
async def test_hash_of_old_parameters_is_renewed_at_sign_in(accounts: Accounts, database: Database) -> None:
    await accounts.create("ann@school.example", "Secret-pass", "student")
    before = (await stored(database)).password_hash
    stronger = Passwords(PasswordHasher(time_cost=2, memory_cost=16, parallelism=1))
    account = await Accounts(database, stronger).authenticate("ann@school.example", "Secret-pass")
    after = (await stored(database)).password_hash
    assert after != before
    assert account.password_hash == after, "the sign-in that follows goes by the hash that is stored"
    assert not stronger.needs_rehash(after)
    assert await stronger.verify(after, "Secret-pass")
    await stronger.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("email", "password", "role"),
    [
        ("no-at.example", "Secret-pass", "student"),
        ("two@at@school.example", "Secret-pass", "student"),
        ("ann@localhost", "Secret-pass", "student"),
        ("ann smith@school.example", "Secret-pass", "student"),
        ("a" * 80 + "@school.example", "Secret-pass", "student"),
        ("nul\x00@school.example", "Secret-pass", "student"),
        ("ann@school.example", "Secret-pass", "admin"),
        ("ann@school.example", "Secret-pass", ""),
        ("ann@school.example", "7-chars", "student"),
        ("ann@school.example", "x" * 1025, "student"),
    ],
)
async def test_account_with_a_fault_is_not_made(
    accounts: Accounts, database: Database, email: str, password: str, role: str
) -> None:
    with pytest.raises(BadRequest):
        await accounts.create(email, password, role)
    with pytest.raises(BadRequest):
        accounts.create_now(email, password, role)
    assert await database.run(lambda session: session.scalars(select(User)).all()) == []


def test_command_line_makes_the_same_account(tmp_path: Path) -> None:
    app = Flask("test")
    engine = attach(app, load({}, None, database_url=f"sqlite:///{tmp_path}/gateway.db"))
    upgrade(app)
    accounts = Accounts(Database(engine, threads=1), Passwords(CHEAP))
    assert accounts.create_now("A@b.co", "Secret-pass", "student") == Account(1, "a@b.co", "student")
    with pytest.raises(Conflict):
        accounts.create_now("a@b.co", "Secret-pass", "student")
    engine.dispose()


@pytest.mark.parametrize("password", ["Right-horse1!", "Überß1 x_", "A1a_____", "密码Aa1。。。"])
def test_strong_passwords(password: str) -> None:
    require_strength(password)


@pytest.mark.parametrize(
    "password", ["", "Aa1!", "right-horse1!", "RIGHT-HORSE1!", "Right-horse!", "Righthorse1", "Right horse1"]
)
def test_password_that_the_frontend_would_refuse_is_refused_here_too(password: str) -> None:
    with pytest.raises(BadRequest, match="at least 8 characters"):
        require_strength(password)
