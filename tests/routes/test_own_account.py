"""Registration, passwords and the end of an account, as people do it: with a code from their mailbox."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.config import Settings
from backend.demo.faults import Switch
from backend.demo.world import World
from backend.errors import NotAuthenticated
from backend.models import ActionLog, AvatarSession, Notification, Profile, User, VerificationCode
from backend.services.tokens import Tokens
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import KEY, PASSWORD, Served, serving
from tests.support.mail import Mailbox, receiving
from tests.support.peer import until

STUDENT = "student@test.local"
TUTOR = "tutor@test.local"
ANN = "ann@school.example"
NEW_PASSWORD = "Other-horse2!"


@pytest_asyncio.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    async with receiving() as opened:
        yield opened


@pytest_asyncio.fixture
async def served(settings: Callable[..., Settings], mailbox: Mailbox) -> AsyncIterator[Served]:
    async with serving(settings(smtp_url=f"smtp://127.0.0.1:{mailbox.port}")) as gateway:
        yield gateway


def registration(code: str, **over: Any) -> dict[str, Any]:
    return {"email": ANN, "password": NEW_PASSWORD, "code": code, "role": "student"} | over


def spelt(content: Any) -> bytes:
    """JSON that can say half a surrogate pair."""
    return json.dumps(content).encode("ascii")


async def ask_for_code(visitor: Frontend, email: str, purpose: str) -> None:
    good(await visitor.json("/api/send_verification", {"email": email, "purpose": purpose}))


async def delete_account(frontend: Frontend, content: Any) -> httpx.Response:
    headers = frontend.headers
    return await frontend.http.request("DELETE", "/api/user/delete_account", json=content, headers=headers)


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 1_000_000:06d}"


async def rows(served: Served, model: type[Any]) -> list[Any]:
    return await served.gateway.database.run(lambda session: list(session.scalars(select(model))))


async def changed(served: Served, model: type[Any], **values: Any) -> None:
    def work(session: Session) -> None:
        session.execute(update(model).values(**values))

    await served.gateway.database.run(work)


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


MALFORMED_REQUESTS: list[dict[str, Any]] = [
    {},
    {"purpose": "register"},
    {"email": ""},
    {"email": 7},
    {"email": "nobody"},
    {"email": "a@b.co\r\nBcc: all@school.example"},
    {"email": "a@b.co\nBcc: all@school.example"},
    {"email": "a,b@school.example"},
    {"email": "a>,<b@school.example"},
    {"email": '"a b"@school.example'},
    {"email": "a@school.example, b@school.example"},
    {"email": "a@[127.0.0.1]"},
    {"email": "用户@school.example"},
    {"email": f"{'a' * 80}@school.example"},
    {"email": ANN, "purpose": "admin"},
    {"email": ANN, "purpose": None},
    {"email": ANN, "purpose": ["register"]},
]


@pytest.mark.asyncio
async def test_request_for_a_code_that_makes_no_sense_is_400_and_sends_nothing(
    served: Served, visitor: Frontend, mailbox: Mailbox
) -> None:
    for content in MALFORMED_REQUESTS:
        answer = await visitor.http.post("/api/send_verification", content=spelt(content))
        refused(answer, 400, "bad_request")
    assert await rows(served, VerificationCode) == []
    assert mailbox.tried == 0


@pytest.mark.asyncio
async def test_second_code_within_ten_seconds_is_429_and_says_when(
    served: Served, visitor: Frontend, mailbox: Mailbox
) -> None:
    good(await visitor.json("/api/send_verification", {"email": ANN}))
    answer = await visitor.json("/api/send_verification", {"email": ANN.upper()})
    assert refused(answer, 429, "too_many_requests")["retryable"]
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    [stored] = await rows(served, VerificationCode)
    await changed(served, VerificationCode, sent_at=stored.sent_at.replace(year=2020))
    good(await visitor.json("/api/send_verification", {"email": ANN}))
    first, second = await mailbox.code(1), await mailbox.code(2)
    if first != second:
        refused(await visitor.json("/api/register", registration(first)), 401)
    assert (await visitor.json("/api/register", registration(second))).status_code == 201


@pytest.mark.asyncio
@pytest.mark.parametrize("purpose", ["update_password", "delete_account"])
async def test_nobody_learns_from_a_code_whether_there_is_an_account(
    visitor: Frontend, mailbox: Mailbox, purpose: str
) -> None:
    def asked(email: str) -> Any:
        return visitor.json("/api/send_verification", {"email": email, "purpose": purpose})

    known, unknown = await asked(STUDENT), await asked("nobody@school.example")
    assert (known.status_code, known.json()) == (unknown.status_code, unknown.json())
    # Also the lock is the same for both.
    again = refused(await asked(STUDENT), 429), refused(await asked("nobody@school.example"), 429)
    assert [answer["code"] for answer in again] == ["too_many_requests"] * 2
    await mailbox.mail()
    assert mailbox.envelopes == [("avatar-gateway@localhost", [STUDENT])]


@pytest.mark.asyncio
async def test_changed_password_ends_the_token_and_replaces_the_old_password(
    served: Served, student: Frontend, visitor: Frontend, mailbox: Mailbox
) -> None:
    await ask_for_code(student, STUDENT, "update_password")
    content = {"code": await mailbox.code(), "new_password": NEW_PASSWORD}
    good(await student.json("/api/update_password", content))
    refused(await student.get("/api/token_status"), 401)
    refused(await visitor.json("/api/login", {"email": STUDENT, "password": PASSWORD}), 401)
    signed_in = await visitor.json("/api/login", {"email": STUDENT, "password": NEW_PASSWORD})
    assert signed_in.status_code == 200
    assert "password" in (await rows(served, Notification))[-1].title
    [record] = await rows(served, ActionLog)
    assert (record.action, record.operator_email, record.target_user_email) == (
        "update_password",
        STUDENT,
        STUDENT,
    )
    assert record.details is None


@pytest.mark.asyncio
async def test_other_workers_learn_that_a_changed_password_ended_the_token(
    served: Served, student: Frontend, mailbox: Mailbox
) -> None:
    other = Tokens(KEY, served.gateway.database, staleness_seconds=0.05)
    await other.start()
    assert student.token is not None
    assert (await other.verify(student.token)).email == STUDENT
    await ask_for_code(student, STUDENT, "update_password")
    content = {"code": await mailbox.code(), "new_password": NEW_PASSWORD}
    good(await student.json("/api/update_password", content))
    await until(lambda: other.verify_cached(student.token or "") is None, 20)
    with pytest.raises(NotAuthenticated):
        await other.verify(student.token)
    await other.aclose()


@pytest.mark.asyncio
async def test_new_password_with_a_wrong_code_is_400_so_that_the_tab_stays_signed_in(
    student: Frontend, visitor: Frontend, mailbox: Mailbox
) -> None:
    await ask_for_code(student, STUDENT, "update_password")
    code = await mailbox.code()
    content = {"code": wrong(code), "new_password": NEW_PASSWORD}
    shown = refused(await student.json("/api/update_password", content), 400, "bad_request")
    assert "code" in shown["msg"]
    good(await student.get("/api/token_status"))
    assert (await visitor.json("/api/login", {"email": STUDENT, "password": PASSWORD})).status_code == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "content",
    [{}, {"code": "123456"}, {"new_password": NEW_PASSWORD}, {"code": "123456", "new_password": "weak"}],
)
async def test_malformed_change_of_password_is_400(student: Frontend, content: dict[str, str]) -> None:
    refused(await student.json("/api/update_password", content), 400, "bad_request")
    good(await student.get("/api/token_status"))


@pytest.mark.asyncio
async def test_code_of_one_user_changes_nothing_of_another(
    student: Frontend, tutor: Frontend, mailbox: Mailbox
) -> None:
    await ask_for_code(student, STUDENT, "update_password")
    content = {"code": await mailbox.code(), "new_password": NEW_PASSWORD}
    refused(await tutor.json("/api/update_password", content), 400)
    good(await tutor.get("/api/token_status"))


@pytest.mark.asyncio
async def test_code_to_change_the_password_does_not_delete_the_account(
    student: Frontend, mailbox: Mailbox
) -> None:
    await ask_for_code(student, STUDENT, "update_password")
    refused(await delete_account(student, {"code": await mailbox.code()}), 400)
    good(await student.get("/api/token_status"))


@pytest.mark.asyncio
async def test_deleted_account_is_gone_with_its_avatar_and_its_token(
    served: Served, student: Frontend, visitor: Frontend, mailbox: Mailbox, world: World
) -> None:
    good(await student.multipart("/api/avatar/start", avatar_name="Ada Demo"))
    await ask_for_code(student, STUDENT, "delete_account")
    good(await delete_account(student, {"code": await mailbox.code()}))
    for path in ("/api/token_status", "/api/avatar/list"):
        refused(await student.get(path), 401, "not_authenticated")
    refused(await visitor.json("/api/login", {"email": STUDENT, "password": PASSWORD}), 401)
    assert [user.email for user in await rows(served, User)] == [TUTOR]
    await until(lambda: world.ledger("manager").by_path["/avatar/disconnect"] == 1, 20)
    async with asyncio.timeout(20):
        while await rows(served, AvatarSession):  # noqa: ASYNC110 - a database knows of no event
            await asyncio.sleep(0.02)
    [record] = await rows(served, ActionLog)
    assert (record.action, record.target_user_email) == ("delete_account", STUDENT)


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["refuse", "hang", "500"])
async def test_account_is_deleted_also_when_the_avatar_cannot_be_released(
    served: Served, student: Frontend, mailbox: Mailbox, world: World, fault: str
) -> None:
    good(await student.multipart("/api/avatar/start", avatar_name="Ada Demo"))
    await world.control.put(Switch("manager", fault))
    await ask_for_code(student, STUDENT, "delete_account")
    good(await delete_account(student, {"code": await mailbox.code()}))
    assert [user.email for user in await rows(served, User)] == [TUTOR]


@pytest.mark.asyncio
async def test_last_tutor_cannot_leave_and_stays_signed_in(
    served: Served, tutor: Frontend, mailbox: Mailbox
) -> None:
    await ask_for_code(tutor, TUTOR, "delete_account")
    shown = refused(await delete_account(tutor, {"code": await mailbox.code()}), 409, "conflict")
    assert "last active tutor" in shown["msg"]
    good(await tutor.get("/api/token_status"))
    assert len(await rows(served, User)) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("content", [None, {}, {"code": ""}, {"code": "000000"}, []])
async def test_account_is_not_deleted_without_a_code(served: Served, student: Frontend, content: Any) -> None:
    refused(await delete_account(student, content), 400, "bad_request")
    assert len(await rows(served, User)) == 2


@pytest.mark.asyncio
async def test_full_mail_queue_is_503_and_locks_nobody_out(
    served: Served, visitor: Frontend, mailbox: Mailbox
) -> None:
    mailbox.go.clear()
    served.gateway.mail._places = 1
    good(await visitor.json("/api/send_verification", {"email": "first@school.example"}))
    for purpose, email in (("register", ANN), ("update_password", STUDENT), ("update_password", ANN)):
        answer = await visitor.json("/api/send_verification", {"email": email, "purpose": purpose})
        refused(answer, 503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
    mailbox.go.set()
    await mailbox.mail()
    await until(lambda: served.gateway.mail.waiting == 0, 20)
    good(await visitor.json("/api/send_verification", {"email": ANN}))
    assert (await visitor.json("/api/register", registration(await mailbox.code(2)))).status_code == 201


@pytest.mark.asyncio
async def test_refused_mail_takes_its_code_back_and_locks_nobody_out(
    served: Served, visitor: Frontend, mailbox: Mailbox
) -> None:
    mailbox.refusals.append("550 no such mailbox")
    good(await visitor.json("/api/send_verification", {"email": ANN}))
    await until(lambda: mailbox.tried == 1 and served.gateway.mail.waiting == 0, 20)
    assert await rows(served, VerificationCode) == []
    good(await visitor.json("/api/send_verification", {"email": ANN}))
    assert (await visitor.json("/api/register", registration(await mailbox.code()))).status_code == 201


@pytest.mark.asyncio
async def test_answer_does_not_wait_for_a_mail_server_that_hangs(visitor: Frontend, mailbox: Mailbox) -> None:
    mailbox.go.clear()
    good(await visitor.json("/api/send_verification", {"email": ANN}))
    assert mailbox.mails == []
    mailbox.go.set()
    await mailbox.mail()


@pytest.mark.asyncio
async def test_gateway_stops_in_time_though_the_mail_server_hangs(
    settings: Callable[..., Settings], mailbox: Mailbox
) -> None:
    mailbox.go.clear()
    async with serving(settings(smtp_url=f"smtp://127.0.0.1:{mailbox.port}")) as served:
        good(await served.http.post("/api/send_verification", json={"email": ANN}))
        await until(lambda: mailbox.tried == 1, 20)
    # Leaving the block would have raised if closing had been cut short.
    assert mailbox.mails == []


@pytest.mark.asyncio
async def test_codes_are_logged_when_only_this_machine_reaches_the_gateway(
    settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gateway.mail")
    async with serving(settings()) as served:
        good(await served.http.post("/api/send_verification", json={"email": ANN}))
        [line] = [record.getMessage() for record in caplog.records if ANN in record.getMessage()]
        assert line.startswith("for development only")
        code = line.rpartition(": ")[2]
        answer = await served.http.post("/api/register", json=registration(code))
        assert answer.status_code == 201


@pytest.mark.asyncio
async def test_without_a_mail_server_a_public_gateway_says_so_and_logs_no_code(
    settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gateway.mail")
    async with serving(settings(host="0.0.0.0")) as served:
        for email, purpose in ((ANN, "register"), (STUDENT, "update_password")):
            content = {"email": email, "purpose": purpose}
            refused(await served.http.post("/api/send_verification", json=content), 503, "mail_unavailable")
        assert await rows(served, VerificationCode) == []
    [warning] = [record.getMessage() for record in caplog.records if record.name == "gateway.mail"]
    assert "SMTP_URL is not set" in warning
