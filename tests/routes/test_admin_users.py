"""Users as tutors make, change and delete them."""

import asyncio
import json
from typing import Any

import pytest

from backend.demo.faults import Switch
from backend.demo.world import World
from tests.routes.conftest import Stage
from tests.support.admin import FORM, listed, made, send, signed_in
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import PASSWORD, Served
from tests.support.pictures import picture


@pytest.mark.asyncio
async def test_new_user_is_as_the_form_says_and_can_sign_in(served: Served, tutor: Frontend) -> None:
    number = await made(tutor)
    row = (await listed(tutor))["users"][0]
    assert row["id"] == f"U{number}"
    expected = {name: value for name, value in FORM.items() if name != "password"}
    assert {name: row[name] for name in expected} == expected | {"email": "sue@school.example"}
    sue = await signed_in(served, "sue@school.example", "123456")
    titles = [n["title"] for n in good(await sue.get("/api/user/notifications"))["notifications"]]
    assert titles == ["Please change your password", "Welcome"]
    refused(await send(tutor, "POST", "/api/admin/users", FORM), 409, "conflict")


@pytest.mark.asyncio
async def test_only_what_is_needed_makes_a_user_too(tutor: Frontend) -> None:
    few = {name: FORM[name] for name in ("email", "password", "username", "role")}
    assert (await send(tutor, "POST", "/api/admin/users", few)).status_code == 201
    row = (await listed(tutor))["users"][0]
    assert (row["status"], row["phone"], row["bio"], row["avatar"]) == ("active", "", "", "")


BAD = {
    "email": ["", "x", "a b@c.de", "a@b", "a@b.c\r\nBcc: x@y.z", "x" * 90 + "@a.de", "a\x00@b.co",
              "\ud800@b.co", 7],
    "password": ["", "12345", "x" * 2000, 123456, "\ud800" * 8, None],
    "username": ["a\nb", "\x00", "x" * 51, [], "\u202ex"],
    "role": ["admin", "", "Tutor", None, 1, "student' --"],
    "status": ["asleep", 1, ["active"]],
    "phone": ["1" * 21, "1\r\n2", 5],
    "full_name": ["x" * 51, "\x1b[2J", {}],
    "bio": ["x" * 2001, "\x00", 1.5],
}  # fmt: skip


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in BAD.items() for value in values],
    ids=lambda part: ascii(part)[:20],
)
async def test_malformed_field_makes_and_changes_nobody(stage: Stage, field: str, value: Any) -> None:
    headers = stage.tutor.headers | {"Content-Type": "application/json"}
    wrong = json.dumps(FORM | {field: value})
    refused(await stage.tutor.http.post("/api/admin/users", content=wrong, headers=headers), 400)
    if value is not None and field != "password":
        one = json.dumps({field: value})
        refused(await stage.tutor.http.put("/api/admin/users/1", content=one, headers=headers), 400)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("missing", ["email", "password", "username", "role"])
async def test_field_that_is_needed_is_named(stage: Stage, missing: str) -> None:
    form = {name: value for name, value in FORM.items() if name != missing}
    msg = refused(await send(stage.tutor, "POST", "/api/admin/users", form), 400)["msg"]
    assert msg == f"{missing} is missing."


@pytest.mark.asyncio
async def test_every_field_that_the_form_edits_is_applied(tutor: Frontend) -> None:
    number = await made(tutor)
    edited = {
        "email": "New.Sue@school.EXAMPLE",
        "username": "<script>alert(1)</script>",
        "role": "tutor",
        "status": "active",
        "phone": "2",
        "full_name": "'; DROP TABLE user; --",
        "bio": "",
    }
    for path in (f"/api/admin/users/{number}", f"/api/admin/users/00000{number}"):
        assert isinstance(good(await send(tutor, "PUT", path, edited))["msg"], str)
    row = (await listed(tutor))["users"][0]
    assert {name: row[name] for name in edited} == edited | {"email": "new.sue@school.example"}
    taken = await send(tutor, "PUT", f"/api/admin/users/{number}", {"email": "STUDENT@test.local"})
    assert "student@test.local" in refused(taken, 409)["msg"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "number", ["999999", "0", "000", "-1", "U002", "1.0", "x", "٣", "9" * 30, "9" * 5000, "2 "]
)
async def test_user_who_does_not_exist_is_not_found(stage: Stage, number: str) -> None:
    refused(await send(stage.tutor, "PUT", f"/api/admin/users/{number}", {"bio": "x"}), 404, "not_found")
    refused(await send(stage.tutor, "DELETE", f"/api/admin/users/{number}"), 404)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "change", [{"role": "tutor"}, {"status": "banned"}, {"email": "other@test.local"}], ids=str
)
async def test_new_role_status_or_email_ends_the_users_sign_in(
    tutor: Frontend, student: Frontend, change: dict[str, str]
) -> None:
    good(await send(tutor, "PUT", "/api/admin/users/1", {"full_name": "Ann"}))
    good(await student.get("/api/user/profile"))
    good(await send(tutor, "PUT", "/api/admin/users/1", change))
    refused(await student.get("/api/user/profile"), 401)


@pytest.mark.asyncio
async def test_banned_user_cannot_sign_in_until_let_in_again(
    served: Served, tutor: Frontend, student: Frontend
) -> None:
    good(await send(tutor, "PUT", "/api/admin/users/1", {"status": "banned"}))
    login = {"email": "student@test.local", "password": PASSWORD}
    refused(await served.http.post("/api/login", json=login), 401)
    good(await send(tutor, "PUT", "/api/admin/users/1", {"status": "active"}))
    again = await signed_in(served, "student@test.local", PASSWORD)
    latest = good(await again.get("/api/user/notifications"))["notifications"][0]
    assert (latest["title"], latest["message"]) == ("Your account was changed", "Your status is now active.")


@pytest.mark.asyncio
async def test_tutor_neither_removes_herself_nor_the_last_active_tutor(
    served: Served, tutor: Frontend
) -> None:
    for change in ({"role": "student"}, {"status": "banned"}):
        assert "yourself" in refused(await send(tutor, "PUT", "/api/admin/users/2", change), 409)["msg"]
    refused(await send(tutor, "DELETE", "/api/admin/users/2", {"reason": ""}), 409)
    number = await made(tutor, role="tutor", status="active")
    other = await signed_in(served, "sue@school.example", "123456")
    good(await send(tutor, "PUT", f"/api/admin/users/{number}", {"status": "inactive"}))
    other = await signed_in(served, "sue@school.example", "123456")
    assert "last active tutor" in refused(await send(other, "DELETE", "/api/admin/users/2"), 409)["msg"]
    good(await tutor.get("/api/admin/users"))


@pytest.mark.asyncio
async def test_deleted_user_is_gone_with_token_picture_and_avatar(
    served: Served, world: World, tutor: Frontend, student: Frontend
) -> None:
    shown = await served.http.post(
        "/api/user/avatar", files={"avatar": ("x.png", picture())}, headers=student.headers
    )
    url = shown.json()["avatar_url"]
    good(await student.urlencoded("/api/avatar/start", avatar_name="Ada Demo"))
    good(await send(tutor, "DELETE", "/api/admin/users/001", {"reason": "left school"}))
    refused(await student.get("/api/user/profile"), 401)
    refused(await student.get("/api/avatar/list"), 401)
    await served.gateway.administration.aclose()
    await served.gateway.pictures._errands.aclose()
    refused(await served.http.get(url), 404)
    async with asyncio.timeout(20):  # the manager is told beside the answer
        while (await served.http.get(f"{world.manager_url}/avatar/list")).json()["data"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    log = (await listed(tutor, "/api/admin/user-action-logs", action="delete_user"))["logs"][0]
    assert (log["reason"], log["target_user_email"]) == ("left school", "student@test.local")
    refused(await send(tutor, "DELETE", "/api/admin/users/001", {"reason": ""}), 404)


@pytest.mark.asyncio
async def test_reason_may_be_left_out_and_must_make_sense(tutor: Frontend) -> None:
    first, second = await made(tutor), await made(tutor, email="b@school.example")
    good(await send(tutor, "DELETE", f"/api/admin/users/{first}"))
    path = f"/api/admin/users/{second}"
    for wrong in ({"reason": 7}, {"reason": "x" * 501}, {"reason": "\x00"}, []):
        refused(await send(tutor, "DELETE", path, wrong), 400)
    headers = tutor.headers
    refused(await tutor.http.request("DELETE", path, content=b'{"reason"', headers=headers), 400)
    refused(await tutor.http.request("DELETE", path, content=b"x" * (2 << 20), headers=headers), 413)
    good(await send(tutor, "DELETE", path, {}))


@pytest.mark.asyncio
async def test_user_is_deleted_at_once_although_the_avatar_manager_is_away(
    world: World, tutor: Frontend, student: Frontend
) -> None:
    good(await student.urlencoded("/api/avatar/start", avatar_name="Ada Demo"))
    await world.control.put(Switch("manager", "refuse"))
    good(await send(tutor, "DELETE", "/api/admin/users/1"))
    refused(await student.get("/api/user/profile"), 401)


@pytest.mark.asyncio
async def test_two_tutors_who_delete_each_other_at_once_leave_one(served: Served, tutor: Frontend) -> None:
    number = await made(tutor, role="tutor", status="active")
    other = await signed_in(served, "sue@school.example", "123456")
    answers = await asyncio.gather(
        send(tutor, "DELETE", f"/api/admin/users/{number}"), send(other, "DELETE", "/api/admin/users/2")
    )
    assert sorted(answer.status_code for answer in answers) in ([200, 401], [200, 409])
    winner = tutor if answers[0].status_code == 200 else other
    assert [row["role"] for row in (await listed(winner))["users"]].count("tutor") == 1
