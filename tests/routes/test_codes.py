"""Who gets a code by mail, how often, and what a mail server's troubles do to it."""

from collections.abc import Callable
from typing import Any

import pytest

from backend.config import Settings
from backend.models import VerificationCode
from tests.support.codes import ANN, STUDENT, changed, mailbox, registration, rows, served, spelt
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import Served, serving
from tests.support.mail import Mailbox
from tests.support.peer import until

__all__ = ["mailbox", "served"]

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
