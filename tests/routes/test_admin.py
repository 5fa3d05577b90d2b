"""The tutors' console over the wire."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, update

from backend.config import Settings
from backend.demo.faults import Switch
from backend.demo.world import World
from backend.models import ActionLog, StoredFile, User
from tests.routes.conftest import Stage
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import PASSWORD, Served, serving
from tests.support.peer import Exchange, Peer
from tests.support.pictures import picture
from tests.support.ports import free_port

USER = {
    "id",
    "email",
    "username",
    "full_name",
    "phone",
    "bio",
    "avatar",
    "role",
    "status",
    "created_at",
    "last_login",
}
FORM = {
    "email": "Sue@School.example",
    "password": "123456",  # what the form proposes
    "username": "Sue",
    "role": "student",
    "status": "inactive",
    "phone": "+1 555",
    "full_name": "Sue Lee",
    "bio": "likes maths",
}
UI_PAGE = {"params[page]": "1", "params[limit]": "100"}
LISTS = ("/api/admin/users", "/api/admin/models", "/api/admin/knowledge", "/api/admin/user-action-logs")


async def send(page: Frontend, method: str, path: str, content: Any = None) -> httpx.Response:
    sent = {} if content is None else {"json": content}
    return await page.http.request(method, path, headers=page.headers, **sent)


async def listed(viewer: Frontend, path: str = "/api/admin/users", /, **wanted: str) -> dict[str, Any]:
    shown: dict[str, Any] = good(await viewer.http.get(path, params=wanted, headers=viewer.headers))
    return shown


async def made(tutor: Frontend, **over: Any) -> str:
    answer = await send(tutor, "POST", "/api/admin/users", FORM | over)
    assert answer.status_code == 201, answer.text
    number = answer.json()["user_id"]
    assert isinstance(number, str)
    assert number.isdigit()
    assert len(number) >= 3
    return number


async def signed_in(served: Served, email: str, password: str) -> Frontend:
    answer = await served.http.post("/api/login", json={"email": email, "password": password})
    assert answer.status_code == 200, answer.text
    return Frontend(served.http, answer.json()["token"])


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", LISTS)
async def test_students_see_nothing_of_the_console(stage: Stage, path: str) -> None:
    refused(await stage.student.get(path), 403, "not_allowed")
    refused(await Frontend(stage.served.http).get(path), 401)


@pytest.mark.asyncio(loop_scope="module")
async def test_students_change_nobody(stage: Stage) -> None:
    refused(await send(stage.student, "POST", "/api/admin/users", FORM), 403)
    refused(await send(stage.student, "PUT", "/api/admin/users/1", {"role": "tutor"}), 403)
    refused(await send(stage.student, "DELETE", "/api/admin/users/2"), 403)


@pytest.mark.asyncio
async def test_role_is_the_one_of_the_database_not_the_one_of_the_token(
    served: Served, tutor: Frontend
) -> None:
    good(await tutor.get("/api/admin/users"))
    demoted = update(User).where(User.email == "tutor@test.local").values(role="student")
    await served.gateway.database.run(lambda session: session.execute(demoted).close())
    await served.gateway.tokens.refresh()
    refused(await tutor.get("/api/admin/users"), 403)


@pytest.mark.asyncio
async def test_page_of_users_as_the_frontend_asks_for_it(tutor: Frontend) -> None:
    for number in range(25):
        await made(tutor, email=f"s{number}@school.example", username=f"s{number}")
    page = await listed(tutor, **UI_PAGE)
    assert (page["total"], page["page"], page["limit"], len(page["users"])) == (27, 1, 100, 27)
    assert page["users"][0]["id"] == "U027"
    assert page["users"][-1]["id"] == "U001"
    for row in page["users"]:
        assert set(row) == USER
        assert all(isinstance(value, str) for name, value in row.items() if name != "last_login")
        assert row["created_at"].endswith("Z")
    assert page["users"][0]["last_login"] is None
    second = await listed(tutor, **{"params[page]": "2", "params[limit]": "10", "page": "9"})
    assert [row["id"] for row in second["users"]] == [f"U{n:03d}" for n in range(17, 7, -1)]
    assert len((await listed(tutor))["users"]) == 20


@pytest.mark.asyncio
async def test_search_and_filters(tutor: Frontend) -> None:
    await made(tutor, email="a_b@school.example", username="under", full_name="100% Ann")
    await made(tutor, email="axb@school.example", username="other", status="banned", role="tutor")

    async def names(**wanted: str) -> list[str]:
        return [row["username"] for row in (await listed(tutor, **wanted))["users"]]

    assert await names(search="A_B") == ["under"]
    assert await names(search="100%") == ["under"]
    assert await names(search="OTHER") == ["other"]
    assert await names(search="\\") == []
    assert await names(search="' OR '1'='1") == []
    assert await names(role="tutor") == ["other", "tutor"]
    assert await names(role="tutor", status="active") == ["tutor"]
    assert await names(**{"params[status]": "banned"}) == ["other"]
    assert (await listed(tutor, search="school"))["total"] == 2


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "wanted", ["page=0", "page=x", "limit=-1", "limit=1000", "page=9" + "9" * 30, "role=admin", "status=x",
               "search=%00", "search=" + "x" * 300, "params[page]=x", "search=%ff", "params[role]=root"]
)  # fmt: skip
async def test_senseless_question_is_no_mistake_of_ours(stage: Stage, wanted: str) -> None:
    answer = await stage.tutor.http.get(f"/api/admin/users?{wanted}", headers=stage.tutor.headers)
    refused(answer, 400, "bad_request")


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


@pytest.mark.asyncio
async def test_trail_shows_what_changed_newest_first_and_never_a_password(tutor: Frontend) -> None:
    number = await made(tutor)
    good(await send(tutor, "PUT", f"/api/admin/users/{number}", {"role": "tutor", "bio": "x"}))
    page = await listed(tutor, "/api/admin/user-action-logs", page="1", per_page="10")
    assert (page["total"], page["page"], page["per_page"]) == (2, 1, 10)
    update_row, create_row = page["logs"]
    assert (update_row["action"], create_row["action"]) == ("update_user", "create_user")
    assert update_row["details"] == {"role": ["student", "tutor"], "bio": ["likes maths", "x"]}
    assert update_row["operator_email"] == "tutor@test.local"
    assert (update_row["target_user_id"], update_row["timestamp"][-1]) == (int(number), "Z")
    assert all(len(pair) == 2 for row in page["logs"] for pair in row["details"].values())
    assert "123456" not in json.dumps(page)
    assert "argon2" not in json.dumps(page)
    assert (await listed(tutor, "/api/admin/user-action-logs", operator_email="TUTOR@"))["total"] == 2
    assert (await listed(tutor, "/api/admin/user-action-logs", action="create"))["total"] == 1
    assert (await listed(tutor, "/api/admin/user-action-logs", target_user_email="nobody"))["logs"] == []
    assert len((await listed(tutor, "/api/admin/user-action-logs", per_page="1", page="2"))["logs"]) == 1


@pytest.mark.asyncio
async def test_rows_of_a_former_trail_are_shown_whatever_they_hold(served: Served, tutor: Frontend) -> None:
    rows = [
        {"operator_email": "", "role": "", "action": "x", "details": odd} for odd in ("text", [1], 7, None)
    ]
    await served.gateway.database.run(lambda session: session.execute(insert(ActionLog), rows).close())
    logs = (await listed(tutor, "/api/admin/user-action-logs"))["logs"]
    assert [row["details"] for row in logs] == [None, {"details": 7}, {"details": [1]}, {"details": "text"}]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "wanted", ["per_page=0", "per_page=101", "page=x", "action=%00", "operator_email=a%0ab"]
)
async def test_senseless_question_about_the_trail_is_refused(stage: Stage, wanted: str) -> None:
    answer = await stage.tutor.http.get(f"/api/admin/user-action-logs?{wanted}", headers=stage.tutor.headers)
    refused(answer, 400)


@pytest.mark.asyncio
async def test_model_page_tells_whether_the_chat_model_answers(settings: Callable[..., Settings]) -> None:
    async def healthy(exchange: Exchange) -> None:
        await exchange.reply(b'{"status":"healthy","model":"Qwen"}')

    async with Peer(healthy) as peer:
        for url, name, status in (
            (peer.url, "Qwen", "active"),
            (f"http://127.0.0.1:{free_port()}", "Chat model", "unavailable"),
        ):
            async with serving(settings(llm_url=url, database_url=_own(settings, status))) as served:
                tutor = Frontend(served.http, await served.token("tutor"))
                page = await listed(tutor, "/api/admin/models", **UI_PAGE)
                assert (page["total"], page["page"], page["limit"]) == (1, 1, 100)
                (row,) = page["models"]
                assert (row["name"], row["status"], row["type"]) == (name, status, "LLM")
                assert (await listed(tutor, "/api/admin/models", page="2"))["models"] == []


def _own(settings: Callable[..., Settings], name: str) -> str:
    return f"sqlite:///{settings().gateway_instance_dir / name}.db"


@pytest.mark.asyncio
async def test_knowledge_page_shows_what_is_public_and_nothing_private(
    served: Served, tutor: Frontend
) -> None:
    rows = [
        {"owner_id": 2, "public": public, "name": name, "path": name, "kind": "document", "size": 1,
         "sha256": "0" * 64, "state": state}
        for name, public, state in (
            ("a.pdf", True, "indexed"), ("b.pdf", True, "failed"), ("c.pdf", False, "kept")
        )
    ]  # fmt: skip
    await served.gateway.database.run(lambda session: session.execute(insert(StoredFile), rows).close())
    page = await listed(tutor, "/api/admin/knowledge")
    shown = [(row["name"], row["status"], row["tag_color"], row["selected"]) for row in page["knowledge"]]
    assert shown == [("b.pdf", "failed", "red", False), ("a.pdf", "indexed", "green", False)]
    assert page["total"] == 2
    assert all(isinstance(row["id"], str) for row in page["knowledge"])
