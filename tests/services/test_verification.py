"""Codes, on SQLite and on PostgreSQL."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256

import pytest
import pytest_asyncio
from sqlalchemy import Engine

from backend.errors import BadRequest, Conflict, MailUnavailable, Overloaded, TooManyRequests
from backend.models import User
from backend.models.verification_code import PURPOSES, Purpose
from backend.services.database import Database
from tests.models.conftest import app, database_url, empty_app, engine
from tests.support.codes import wrong
from tests.support.desk import ANN, Desk

__all__ = ["app", "database_url", "empty_app", "engine"]


@pytest_asyncio.fixture
async def database(engine: Engine) -> AsyncIterator[Database]:
    database = Database(engine, threads=8)
    yield database
    await database.aclose()


@pytest.fixture
def desk(database: Database) -> Desk:
    return Desk(database)


async def add_user(database: Database, email: str) -> None:
    await database.run(lambda session: session.add(User(email=email, password_hash="x")))


@pytest.mark.asyncio
async def test_code_is_six_digits_and_no_text_of_it_is_stored(desk: Desk) -> None:
    code = await desk.send()
    assert re.fullmatch(r"\d{6}", code)
    [row] = await desk.rows()
    assert re.fullmatch(r"[0-9a-f]{64}", row.code_hash)
    assert row.code_hash != sha256(code.encode()).hexdigest()
    assert code not in repr(row)
    assert row.expires_at - row.sent_at == timedelta(seconds=300)


@pytest.mark.asyncio
async def test_codes_differ_and_begin_with_zeros_now_and_then(desk: Desk) -> None:
    codes = set()
    for _ in range(60):
        codes.add(await desk.send())
        desk.now += 11
    assert len(codes) > 55
    assert all(len(code) == 6 for code in codes)


@pytest.mark.asyncio
async def test_code_is_right_until_it_is_spent(desk: Desk) -> None:
    code = await desk.send()
    assert await desk.attempt(code)
    assert await desk.attempt(code)
    assert await desk.spend(code)
    assert not await desk.spend(code)
    assert not await desk.attempt(code)
    assert await desk.rows() == []


@pytest.mark.asyncio
async def test_code_is_good_for_its_email_and_purpose_and_by_its_key_only(
    desk: Desk, database: Database
) -> None:
    for email in (ANN, "bob@school.example"):
        await add_user(database, email)
    for purpose in ("update_password", "delete_account"):
        await desk.send(ANN, purpose)  # type: ignore[arg-type]
    await desk.send("bob@school.example", "delete_account")
    code = await desk.send("bob@school.example", "update_password")
    if len({letter.text for letter in desk.mail.letters}) == 4:
        assert not await desk.attempt(code, ANN, "update_password")
        assert not await desk.attempt(code, "bob@school.example", "delete_account")
        assert not await desk.spend(code, ANN, "update_password")
    assert not await desk.attempt(code, "bob@school.example", "register")
    stranger = Desk(database, "another key of at least thirty-two bytes")
    assert not await stranger.attempt(code, "bob@school.example", "update_password")
    assert await desk.attempt(code, "bob@school.example", "update_password")


@pytest.mark.asyncio
async def test_code_that_one_process_sent_is_known_to_another(desk: Desk, database: Database) -> None:
    assert await Desk(database).attempt(await desk.send())


@pytest.mark.asyncio
async def test_after_five_attempts_the_code_is_dead_and_a_new_one_is_not(desk: Desk) -> None:
    code = await desk.send()
    assert [await desk.attempt(wrong(code)) for _ in range(5)] == [False] * 5
    assert not await desk.attempt(code)
    desk.now += 10.001
    assert await desk.attempt(await desk.send())


@pytest.mark.asyncio
async def test_five_attempts_are_five_also_when_many_come_at_once(desk: Desk) -> None:
    code = await desk.send()
    right = await asyncio.gather(*[desk.attempt(code) for _ in range(20)])
    assert right.count(True) == 5
    [row] = await desk.rows()
    assert row.attempts == 5


@pytest.mark.asyncio
async def test_of_many_who_spend_a_code_at_once_one_has_it(desk: Desk) -> None:
    code = await desk.send()
    assert (await asyncio.gather(*[desk.spend(code) for _ in range(10)])).count(True) == 1


@pytest.mark.asyncio
async def test_code_lives_for_five_minutes(desk: Desk) -> None:
    code = await desk.send()
    desk.now += 299.999
    assert await desk.attempt(code)
    desk.now += 0.002
    assert not await desk.attempt(code)
    assert not await desk.spend(code)


@pytest.mark.asyncio
async def test_expired_codes_are_cleared_away_by_the_next_one(desk: Desk) -> None:
    for number in range(3):
        await desk.send(f"u{number}@school.example")
    desk.now += 301
    await desk.send()
    assert [row.email for row in await desk.rows()] == [ANN]


@pytest.mark.asyncio
async def test_next_code_comes_after_ten_seconds_and_replaces_the_last(desk: Desk) -> None:
    first = await desk.send()
    desk.now += 6.5
    with pytest.raises(TooManyRequests) as caught:
        await desk.send()
    assert caught.value.retry_after_seconds == 4
    assert len(desk.mail.letters) == 1
    assert await desk.attempt(first)
    desk.now += 3.6
    second = await desk.send()
    assert await desk.attempt(second)
    assert first == second or not await desk.attempt(first)


@pytest.mark.asyncio
async def test_of_many_requests_at_once_one_sends_a_code(desk: Desk) -> None:
    sent = await asyncio.gather(*[desk.send() for _ in range(10)], return_exceptions=True)
    assert sum(isinstance(outcome, TooManyRequests) for outcome in sent) == 9
    assert len(desk.mail.letters) == 1
    assert await desk.attempt(desk.mail.code)


@pytest.mark.asyncio
async def test_each_purpose_and_email_waits_for_itself_only(desk: Desk, database: Database) -> None:
    await add_user(database, "bob@school.example")
    for purpose in ("update_password", "delete_account"):
        await desk.send("bob@school.example", purpose)  # type: ignore[arg-type]
    await desk.send()
    assert len(desk.mail.letters) == 3


@pytest.mark.asyncio
@pytest.mark.parametrize("hours", [-2, 2])
async def test_clock_that_was_set_locks_nobody_out(desk: Desk, hours: int) -> None:
    await desk.send()
    desk.now += hours * 3600
    assert await desk.attempt(await desk.send())


@pytest.mark.asyncio
async def test_known_email_cannot_register_and_is_told_so(desk: Desk, database: Database) -> None:
    await add_user(database, ANN)
    with pytest.raises(Conflict, match=r"ann@school\.example"):
        await desk.send(" ANN@school.example ")
    assert desk.mail.letters == []
    assert await desk.rows() == []


@pytest.mark.asyncio
@pytest.mark.parametrize("purpose", ["update_password", "delete_account"])
async def test_unknown_email_gets_no_mail_but_the_same_lock(desk: Desk, purpose: Purpose) -> None:
    await desk.verification.send(ANN, purpose)
    assert desk.mail.letters == []
    with pytest.raises(TooManyRequests):
        await desk.verification.send(ANN, purpose)


@pytest.mark.asyncio
@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("trouble", [Overloaded(), MailUnavailable()])
async def test_without_room_for_mail_nothing_is_stored(
    desk: Desk, purpose: Purpose, trouble: Exception
) -> None:
    desk.mail.trouble = trouble
    with pytest.raises(type(trouble)):
        await desk.verification.send(ANN, purpose)
    assert await desk.rows() == []


@pytest.mark.asyncio
async def test_code_of_a_refused_mail_is_taken_back_and_no_later_one(desk: Desk) -> None:
    await desk.send()
    first = desk.mail.letters[0]
    await first.ended("refused")
    assert await desk.rows() == []
    second = await desk.send()
    if second not in first.text:
        await first.ended("refused")
        assert await desk.attempt(second)


@pytest.mark.asyncio
async def test_email_too_long_to_be_stored_is_refused(desk: Desk) -> None:
    with pytest.raises(BadRequest):
        await desk.verification.send(f"{'a' * 66}@school.example", "register")


@pytest.mark.asyncio
@pytest.mark.parametrize("code", ["", "x", "１２３４５６", "\ud800", "\x00", "'; --", "9" * 100_000])
async def test_text_that_is_no_code_is_wrong(desk: Desk, code: str) -> None:
    await desk.send()
    assert not await desk.attempt(code)
    assert not await desk.spend(code)


@pytest.mark.asyncio
async def test_letter_says_what_the_code_is_for_and_nothing_of_the_account(desk: Desk) -> None:
    code = await desk.send()
    [letter] = desk.mail.letters
    assert letter.to == ANN
    assert letter.text.startswith(f"Your code to create your account: {code}\n")
    assert "5 minutes" in letter.text
    assert code not in letter.subject
