"""Registration, as people do it: with a code from their mailbox, once."""

import asyncio
from typing import Any

import pytest

from backend.models import Profile, User, VerificationCode
from tests.support.codes import (
    ANN,
    NEW_PASSWORD,
    TUTOR,
    ask_for_code,
    changed,
    mailbox,
    registration,
    rows,
    served,
    spelt,
    wrong,
)
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import Served
from tests.support.mail import Mailbox

__all__ = ["mailbox", "served"]


@pytest.mark.asyncio
async def test_visitor_registers_with_the_mailed_code_and_signs_in(
    served: Served, visitor: Frontend, mailbox: Mailbox
) -> None:
    await ask_for_code(visitor, ANN, "register")
    answer = await visitor.json("/api/register", registration(await mailbox.code()))
    assert answer.status_code == 201
    assert list(answer.json()) == ["msg"]
    signed_in = await visitor.json("/api/login", {"email": ANN, "password": NEW_PASSWORD})
    good(await Frontend(served.http, signed_in.json()["token"]).get("/api/token_status"))
    assert [profile.username for profile in await rows(served, Profile)][-1] == "ann"


@pytest.mark.asyncio
@pytest.mark.parametrize("role", ["tutor", "admin", "", None, 7, ["tutor"]])
async def test_whoever_registers_is_a_student_whatever_role_was_asked_for(
    served: Served, visitor: Frontend, mailbox: Mailbox, role: Any
) -> None:
    await ask_for_code(visitor, ANN, "register")
    answer = await visitor.json("/api/register", registration(await mailbox.code(), role=role))
    assert answer.status_code == 201
    made = [user for user in await rows(served, User) if user.email == ANN]
    assert [user.role for user in made] == ["student"]


@pytest.mark.asyncio
async def test_email_of_a_registration_may_be_spelt_in_another_way_than_for_the_code(
    visitor: Frontend, mailbox: Mailbox
) -> None:
    await ask_for_code(visitor, " Ann@School.Example ", "register")
    code = await mailbox.code()
    assert mailbox.mails[0]["To"] == ANN
    answer = await visitor.json("/api/register", registration(f" {code} ", email="ANN@school.example"))
    assert answer.status_code == 201


@pytest.mark.asyncio
async def test_wrong_code_at_registration_is_401_and_the_right_one_still_good(
    visitor: Frontend, mailbox: Mailbox
) -> None:
    await ask_for_code(visitor, ANN, "register")
    code = await mailbox.code()
    shown = refused(await visitor.json("/api/register", registration(wrong(code))), 401, "not_authenticated")
    assert "code" in shown["msg"]
    assert (await visitor.json("/api/register", registration(code))).status_code == 201


@pytest.mark.asyncio
async def test_code_is_dead_after_five_wrong_attempts(visitor: Frontend, mailbox: Mailbox) -> None:
    await ask_for_code(visitor, ANN, "register")
    code = await mailbox.code()
    guesses = [visitor.json("/api/register", registration(wrong(code))) for _ in range(5)]
    for answer in await asyncio.gather(*guesses):
        refused(answer, 401)
    refused(await visitor.json("/api/register", registration(code)), 401)


@pytest.mark.asyncio
async def test_code_older_than_five_minutes_is_401(
    served: Served, visitor: Frontend, mailbox: Mailbox
) -> None:
    await ask_for_code(visitor, ANN, "register")
    [stored] = await rows(served, VerificationCode)
    await changed(served, VerificationCode, expires_at=stored.sent_at)
    refused(await visitor.json("/api/register", registration(await mailbox.code())), 401)


@pytest.mark.asyncio
async def test_code_is_good_once_and_the_known_email_then_409(visitor: Frontend, mailbox: Mailbox) -> None:
    await ask_for_code(visitor, ANN, "register")
    code = await mailbox.code()
    assert (await visitor.json("/api/register", registration(code))).status_code == 201
    refused(await visitor.json("/api/register", registration(code)), 409, "conflict")
    refused(await visitor.json("/api/send_verification", {"email": ANN}), 409, "conflict")


@pytest.mark.asyncio
async def test_of_many_registrations_at_once_with_one_code_exactly_one_wins(
    served: Served, visitor: Frontend, mailbox: Mailbox
) -> None:
    await ask_for_code(visitor, ANN, "register")
    code = await mailbox.code()
    answers = await asyncio.gather(*[visitor.json("/api/register", registration(code)) for _ in range(5)])
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 201
    assert set(statuses[1:]) <= {401, 409}
    assert [user.email for user in await rows(served, User)].count(ANN) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("purpose", ["update_password", "delete_account"])
async def test_code_for_another_purpose_does_not_register(
    visitor: Frontend, mailbox: Mailbox, purpose: str
) -> None:
    await ask_for_code(visitor, TUTOR, purpose)
    code = await mailbox.code()
    await ask_for_code(visitor, ANN, "register")
    if await mailbox.code(2) != code:
        refused(await visitor.json("/api/register", registration(code)), 401)


MALFORMED_REGISTRATIONS: list[dict[str, Any]] = [
    {"email": None},
    {"email": ""},
    {"email": "no address"},
    {"email": "ann@school.example\r\nBcc: all@school.example"},
    {"email": ["ann@school.example"]},
    {"email": "a" * 80 + "@school.example"},
    {"email": "\ud800@school.example"},
    {"password": None},
    {"password": ""},
    {"password": 12345678},
    {"password": "Short1!"},
    {"password": "no-capital1!"},
    {"password": "NO-SMALL1!"},
    {"password": "No-digit!"},
    {"password": "NoSpecial1"},
    {"password": "Long-horse1!" * 100},
    {"password": "Half-horse1!\ud800"},
    {"code": None},
    {"code": ""},
    {"code": 123456},
    {"code": "1" * 1000},
]


@pytest.mark.asyncio
async def test_malformed_registration_is_400_and_counts_as_no_attempt(
    served: Served, visitor: Frontend, mailbox: Mailbox
) -> None:
    await ask_for_code(visitor, ANN, "register")
    code = await mailbox.code()
    for over in MALFORMED_REGISTRATIONS:
        refused(await visitor.http.post("/api/register", content=spelt(registration(code) | over)), 400)
    [stored] = await rows(served, VerificationCode)
    assert stored.attempts == 0
