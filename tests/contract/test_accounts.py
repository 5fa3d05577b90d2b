"""Registration, codes and passwords, as the two tabs of the sign-in page and the profile window use them."""

import logging
import re

import pytest

from tests.contract.page import Page
from tests.contract.stage import Scene
from tests.support.codes import wrong
from tests.support.frontend import refused
from tests.support.gateway import PASSWORD

EMAIL = "new@test.local"
NEW_PASSWORD = "Other-horse2!"


@pytest.fixture(autouse=True)
def mails_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Without a mail server a gateway on loopback logs what it would send."""
    caplog.set_level(logging.INFO, "gateway")


async def code_for(page: Page, caplog: pytest.LogCaptureFixture, email: str, purpose: str) -> str:
    caplog.clear()
    sent = await page.axios("POST", "/api/send_verification", json={"email": email, "purpose": purpose})
    assert sent.status_code == 200, sent.text
    said = " ".join(text for text in caplog.messages if f"mail to {email}" in text)
    (code,) = set(re.findall(r"(?<!\d)\d{6}(?!\d)", said))
    return str(code)


@pytest.mark.asyncio
async def test_who_registers_as_a_tutor_is_a_student(visitor: Page, caplog: pytest.LogCaptureFixture) -> None:
    code = await code_for(visitor, caplog, EMAIL, "register")
    content = {"email": EMAIL, "password": NEW_PASSWORD, "code": code, "role": "tutor"}
    made = await visitor.axios("POST", "/api/register", json=content)
    assert made.status_code == 201, made.text
    await visitor.login(EMAIL, NEW_PASSWORD)
    assert (await visitor.axios("GET", "/api/user/profile")).json()["role"] == "student"
    refused(await visitor.axios("GET", "/api/admin/users"), 403, "not_allowed")


@pytest.mark.asyncio
async def test_code_is_good_for_one_registration_and_wrong_ones_are_told(
    visitor: Page, caplog: pytest.LogCaptureFixture
) -> None:
    code = await code_for(visitor, caplog, EMAIL, "register")
    content = {"email": EMAIL, "password": NEW_PASSWORD, "role": "student"}
    shown = refused(await visitor.axios("POST", "/api/register", json=content | {"code": wrong(code)}), 401)
    assert visitor.alerts[-1].shown == shown["msg"]
    assert (await visitor.axios("POST", "/api/register", json=content | {"code": code})).status_code == 201
    again = await visitor.axios("POST", "/api/register", json=content | {"code": code})
    assert again.status_code in (401, 409)


@pytest.mark.asyncio
async def test_code_can_be_guessed_a_few_times_only(visitor: Page, caplog: pytest.LogCaptureFixture) -> None:
    code = await code_for(visitor, caplog, EMAIL, "register")
    content = {"email": EMAIL, "password": NEW_PASSWORD}
    for _ in range(6):
        answer = await visitor.axios("POST", "/api/register", json=content | {"code": wrong(code)})
        assert answer.status_code in (401, 429)
    late = await visitor.axios("POST", "/api/register", json=content | {"code": code})
    assert late.status_code in (401, 429)


@pytest.mark.asyncio
async def test_code_is_sent_again_after_a_pause_only(visitor: Page, caplog: pytest.LogCaptureFixture) -> None:
    await code_for(visitor, caplog, EMAIL, "register")
    answer = await visitor.axios(
        "POST", "/api/send_verification", json={"email": EMAIL, "purpose": "register"}
    )
    refused(answer, 429, "too_many_requests")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.asyncio
async def test_email_that_is_registered_is_a_conflict(visitor: Page) -> None:
    content = {"email": "Student@Test.local", "purpose": "register"}
    refused(await visitor.axios("POST", "/api/send_verification", json=content), 409, "conflict")
    refused(await visitor.axios("POST", "/api/send_verification", json={"purpose": "register"}), 400)


@pytest.mark.asyncio
async def test_new_password_ends_every_sign_in_and_logging_out_twice_stays_silent(
    scene: Scene, student: Page, caplog: pytest.LogCaptureFixture
) -> None:
    token = student.token
    code = await code_for(student, caplog, "student@test.local", "update_password")
    refused(
        await student.axios(
            "POST", "/api/update_password", json={"code": wrong(code), "new_password": NEW_PASSWORD}
        ),
        400,
    )
    assert not student.signed_out
    changed = await student.axios(
        "POST", "/api/update_password", json={"code": code, "new_password": NEW_PASSWORD}
    )
    assert changed.status_code == 200, changed.text
    student.token = None
    for _ in range(2):
        assert (await student.fetch("POST", "/api/logout", json={})).status_code == 200
    headers = {"Authorization": f"Bearer {token}"}
    refused(await student.http.get("/api/user/profile", headers=headers), 401, "not_authenticated")
    old = {"email": "student@test.local", "password": PASSWORD}
    refused(await scene.page().axios("POST", "/api/login", json=old), 401)
    await scene.page().login("student@test.local", NEW_PASSWORD)


@pytest.mark.asyncio
async def test_deleted_account_leaves_nothing_that_answers(
    student: Page, caplog: pytest.LogCaptureFixture
) -> None:
    code = await code_for(student, caplog, "student@test.local", "delete_account")
    refused(await student.axios("DELETE", "/api/user/delete_account", json={"code": wrong(code)}), 400)
    gone = await student.axios("DELETE", "/api/user/delete_account", json={"code": code})
    assert gone.status_code == 200, gone.text
    for path in ("/api/token_status", "/api/user/profile", "/api/chat/history"):
        refused(await student.fetch("GET", path), 401, "not_authenticated")
