"""Sign-ins beside each other; renewals, on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from argon2 import PasswordHasher
from sqlalchemy import select, update
from werkzeug.security import generate_password_hash

from backend.errors import NotAuthenticated
from backend.models import User
from backend.services.accounts import Account, Accounts
from backend.services.database import Database
from backend.services.passwords import Passwords
from backend.services.sign_in import sign_in
from backend.services.tokens import Tokens
from tests.support.stores import KINDS, store

ANN, SECRET = "ann@school.example", "Secret-pass"
FORMER = generate_password_hash(SECRET, "pbkdf2:sha256:10")
AT_ONCE = 6

pytestmark = pytest.mark.asyncio
BOTH = pytest.mark.parametrize("database", KINDS, indirect=True)


class Meeting(Passwords):
    """Lets the first sign-ins find the stored hash right before any of them goes on."""

    def __init__(self, parties: int, *, time_cost: int = 1) -> None:
        hasher = PasswordHasher(time_cost=time_cost, memory_cost=8, parallelism=1)
        super().__init__(hasher, threads=4)
        self._barrier = asyncio.Barrier(parties)
        self._early = parties

    async def verify(self, hashed: str | None, password: str) -> bool:
        fits = await super().verify(hashed, password)
        if self._early:
            self._early -= 1
            async with asyncio.timeout(20):
                await self._barrier.wait()
        return fits


class Desk:
    """One process at which people sign in."""

    def __init__(self, database: Database, passwords: Passwords) -> None:
        self.database = database
        self.passwords = passwords
        self.accounts = Accounts(database, passwords)
        self.tokens = Tokens("k" * 32, database, staleness_seconds=60)

    async def sign_in(self, password: str = SECRET) -> str:
        return await sign_in(self.accounts, self.tokens, ANN, password)

    async def stored(self) -> str:
        return await self.database.run(lambda session: session.scalars(select(User.password_hash)).one())

    async def store(self, password_hash: str) -> None:
        change = update(User).values(password_hash=password_hash)
        await self.database.run(lambda session: session.execute(change).close())


@pytest_asyncio.fixture
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with store(getattr(request, "param", "sqlite"), tmp_path) as database:
        await database.run(lambda session: session.add(User(email=ANN, password_hash=FORMER)))
        yield database


@BOTH
async def test_sign_ins_that_all_renew_a_former_hash_all_succeed(database: Database) -> None:
    """All but one once were refused: the first renewal looked like another password to the others."""
    desk = Desk(database, Meeting(AT_ONCE))
    tokens = await asyncio.gather(*[desk.sign_in() for _ in range(AT_ONCE)])
    assert len(set(tokens)) == AT_ONCE
    assert not desk.passwords.needs_rehash(await desk.stored())
    await desk.passwords.aclose()


async def test_wrong_password_is_refused_beside_a_renewal(database: Database) -> None:
    desk = Desk(database, Meeting(2))
    right, wrong = await asyncio.gather(desk.sign_in(), desk.sign_in("Wrong-pass"), return_exceptions=True)
    assert isinstance(right, str)
    assert isinstance(wrong, NotAuthenticated)
    await desk.passwords.aclose()


async def test_password_that_was_changed_meanwhile_opens_nothing(database: Database) -> None:
    """What is no renewal is a change, though the credentials were right when they were looked at."""

    class Changing(Passwords):
        async def verify(self, hashed: str | None, password: str) -> bool:
            fits = await super().verify(hashed, password)
            await desk.store(generate_password_hash("Another-pass", "pbkdf2:sha256:10"))
            return fits

    desk = Desk(database, Changing(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)))
    with pytest.raises(NotAuthenticated):
        await desk.sign_in()
    await desk.passwords.aclose()


@BOTH
async def test_hash_that_a_worker_of_another_release_renews_is_no_other_password(database: Database) -> None:
    """Between the look at the credentials and the token it did look like one."""
    present, next_release = Meeting(1), Meeting(1, time_cost=2)

    class Overtaken(Accounts):
        async def authenticate(self, email: str, password: str) -> Account:
            account = await super().authenticate(email, password)
            if not seen:
                seen.append(await Desk(database, next_release).sign_in())
            return account

    seen: list[str] = []
    desk = Desk(database, present)
    desk.accounts = Overtaken(database, present)
    assert await desk.sign_in() not in seen
    for passwords in (present, next_release):
        await passwords.aclose()
