import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Literal

import pytest
import pytest_asyncio
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from werkzeug.security import generate_password_hash

from backend.errors import BadRequest, Overloaded
from backend.services.passwords import HASHER, Passwords

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Counting(PasswordHasher):
    """Counts how often it is asked, and can be held."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified = 0
        self.go = threading.Event()
        self.go.set()

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
        assert self.go.wait(10)
        self.verified += 1
        return super().verify(hash, password)


@pytest_asyncio.fixture
async def passwords() -> AsyncIterator[Passwords]:
    passwords = Passwords(CHEAP)
    yield passwords
    await passwords.aclose()


@pytest.mark.asyncio
async def test_right_password_fits_and_a_wrong_one_does_not(passwords: Passwords) -> None:
    hashed = await passwords.hash("correct horse 电池")
    assert await passwords.verify(hashed, "correct horse 电池")
    assert not await passwords.verify(hashed, "correct horse 电")


@pytest.mark.asyncio
async def test_hash_is_argon2id_and_never_the_same_twice(passwords: Passwords) -> None:
    first, second = await passwords.hash("password"), passwords.hash_now("password")
    assert first.startswith("$argon2id$")
    assert first != second
    assert len(Passwords().hash_now("password")) <= 255


@pytest.mark.asyncio
async def test_unknown_user_costs_one_verification_and_is_refused() -> None:
    hasher = Counting()
    passwords = Passwords(hasher)
    assert not await passwords.verify(None, "a password that nobody has")
    assert hasher.verified == 1
    await passwords.aclose()


def test_an_unknown_user_is_looked_up_in_a_hash_of_todays_cost() -> None:
    made = Passwords()._dummy
    assert not HASHER.check_needs_rehash(made)
    with pytest.raises(VerifyMismatchError):  # computed and compared, and not refused for its form
        HASHER.verify(made, "a password that nobody has")


@pytest.mark.asyncio
async def test_broken_hash_fits_nothing(passwords: Passwords) -> None:
    assert not await passwords.verify("pbkdf2:not-argon", "password")
    assert not await passwords.verify("$argon2id$v=19$m=8,t=1,p=1$broken", "password")


@pytest.mark.asyncio
async def test_former_hash_fits_its_password_and_is_to_be_renewed(passwords: Passwords) -> None:
    hashed = generate_password_hash("correct horse 电池", "pbkdf2:sha256:1000")
    assert await passwords.verify(hashed, "correct horse 电池")
    assert not await passwords.verify(hashed, "correct horse 电")
    assert passwords.needs_rehash(hashed)


@pytest.mark.asyncio
@pytest.mark.parametrize("password", ["x" * 1025, "\ud800 half a pair"])
async def test_impossible_password_is_refused_before_any_work(password: str) -> None:
    hasher = Counting()
    passwords = Passwords(hasher)
    with pytest.raises(BadRequest):
        await passwords.verify(None, password)
    with pytest.raises(BadRequest):
        await passwords.hash(password)
    assert hasher.verified == 0
    await passwords.aclose()


def test_hash_of_weaker_parameters_needs_a_rehash() -> None:
    weak, strong = Passwords(CHEAP), Passwords()
    hashed = weak.hash_now("password")
    assert strong.needs_rehash(hashed)
    assert not weak.needs_rehash(hashed)


@pytest.mark.asyncio
async def test_more_sign_ins_than_the_queue_holds_are_turned_away() -> None:
    hasher = Counting()
    passwords = Passwords(hasher, threads=1, waiting=2)
    hasher.go.clear()
    held = [asyncio.create_task(passwords.verify(None, "password")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await passwords.verify(None, "password")
    hasher.go.set()
    await asyncio.gather(*held)
    assert not await passwords.verify(None, "password")
    await passwords.aclose()
    with pytest.raises(Overloaded):
        await passwords.verify(None, "password")
