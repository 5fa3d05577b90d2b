"""A new password and the end of an account, as people do it: with a code from their mailbox."""

import asyncio
from typing import Any

import httpx
import pytest

from backend.demo.faults import Switch
from backend.demo.world import World
from backend.errors import NotAuthenticated
from backend.models import ActionLog, AvatarSession, Notification, User
from backend.services.tokens import Tokens
from tests.support.codes import NEW_PASSWORD, STUDENT, TUTOR, ask_for_code, mailbox, rows, served, wrong
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import KEY, PASSWORD, Served
from tests.support.mail import Mailbox
from tests.support.peer import until

__all__ = ["mailbox", "served"]


async def delete_account(frontend: Frontend, content: Any) -> httpx.Response:
    headers = frontend.headers
    return await frontend.http.request("DELETE", "/api/user/delete_account", json=content, headers=headers)


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
