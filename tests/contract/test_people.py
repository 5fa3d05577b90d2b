"""Profile, notifications and the tutor's console, as the frontend calls them."""

import re

import pytest

from tests.contract.page import Page
from tests.contract.stage import Scene
from tests.support.frontend import refused
from tests.support.gateway import PASSWORD

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
    "0000000049454e44ae426082"
)
NEW_USER = {
    "email": "New.Student@Test.local",
    "password": "123456Aa!",
    "username": "newcomer",
    "role": "student",
    "status": "active",
    "full_name": "New Student",
    "phone": "123",
    "bio": "",
}
PAGING = {"params[page]": "1", "params[limit]": "100"}


async def users(page: Page) -> dict[str, dict[str, object]]:
    """The tutor's table by e-mail, as the page asks for it."""
    answer = await page.axios("GET", "/api/admin/users", params=PAGING)
    assert answer.status_code == 200, answer.text
    return {user["email"]: user for user in answer.json()["users"]}


def number_of(user: dict[str, object]) -> str:
    """What the page makes of an id: it strips the letter."""
    return re.sub("^U", "", str(user["id"]))


@pytest.mark.asyncio
async def test_profile_decides_which_console_is_shown(student: Page, tutor: Page) -> None:
    for page, role in ((student, "student"), (tutor, "tutor")):
        profile = (await page.axios("GET", "/api/user/profile")).json()
        assert profile["role"] == role
        assert profile["email"] == f"{role}@test.local"
        for field in ("username", "full_name", "bio", "avatar_url"):
            assert profile[field] is None or isinstance(profile[field], str)


@pytest.mark.asyncio
async def test_profile_is_changed_and_says_so(student: Page) -> None:
    changes = {"username": "ada", "full_name": "Ada 洛夫莱斯", "bio": "Engines."}
    answer = await student.axios("POST", "/api/user/profile", json=changes)
    assert isinstance(answer.json()["msg"], str)
    profile = (await student.axios("GET", "/api/user/profile")).json()
    assert {field: profile[field] for field in changes} == changes


@pytest.mark.asyncio
async def test_picture_gets_another_address_with_each_upload_and_is_shown_without_a_token(
    student: Page, visitor: Page
) -> None:
    addresses = []
    for _ in range(2):
        answer = await student.axios(
            "POST", "/api/user/avatar", files={"avatar": ("me.png", PNG, "image/png")}
        )
        assert answer.status_code == 200, answer.text
        addresses.append(answer.json()["avatar_url"])
    assert len(set(addresses)) == 2
    assert (await student.axios("GET", "/api/user/profile")).json()["avatar_url"] == addresses[1]
    shown = await visitor.http.get(addresses[1])
    assert shown.status_code == 200
    assert shown.headers["content-type"] in ("image/png", "image/jpeg")
    assert shown.headers["x-content-type-options"] == "nosniff"


@pytest.mark.asyncio
async def test_picture_that_is_none_is_refused_whatever_it_is_called(student: Page) -> None:
    for content in (b"<script>alert(1)</script>", b"", b"\x89PNG\r\n\x1a\n" + bytes(64)):
        answer = await student.axios(
            "POST", "/api/user/avatar", files={"avatar": ("me.jpg", content, "image/jpeg")}
        )
        assert answer.status_code in (400, 415), content
        refused(answer, answer.status_code)
    large = await student.axios(
        "POST", "/api/user/avatar", files={"avatar": ("me.png", PNG + bytes(6 << 20), "image/png")}
    )
    refused(large, 413, "too_large")


@pytest.mark.asyncio
async def test_notifications_are_counted_listed_and_read(student: Page, tutor: Page) -> None:
    quiet = await student.fetch(
        "GET", "/api/user/notifications?page=1&limit=1", headers={"Content-Type": "application/json"}
    )
    assert isinstance(quiet.json()["unread_count"], int)
    answer = await student.fetch(
        "GET", "/api/user/notifications?page=1&limit=20", headers={"Content-Type": "application/json"}
    )
    listed = answer.json()["notifications"]
    assert len(listed) == answer.json()["unread_count"] > 0
    for one in listed:
        assert {"id", "title", "message", "is_read", "created_at"} <= set(one)
        assert str(one["created_at"]).endswith("Z")
    path = f"/api/user/notifications/{listed[0]['id']}/read"
    refused(await tutor.fetch("PUT", path, headers={"Content-Type": "application/json"}), 404)
    for _ in range(2):
        read = await student.fetch("PUT", path, headers={"Content-Type": "application/json"})
        assert isinstance(read.json()["msg"], str)
    after = await student.fetch("GET", "/api/user/notifications?page=1&limit=20")
    assert after.json()["unread_count"] == len(listed) - 1


@pytest.mark.asyncio
async def test_ids_of_users_are_text_and_come_back_with_leading_zeros(tutor: Page) -> None:
    listed = await users(tutor)
    for user in listed.values():
        assert re.fullmatch(r"U\d{3,}", str(user["id"]))
    number = number_of(listed["student@test.local"])
    for name in (number, number.zfill(9), str(int(number))):
        answer = await tutor.axios("PUT", f"/api/admin/users/{name}", json={"username": "named"})
        assert (name, answer.status_code) == (name, 200)
    for name in ("U007", "x", "0", "9" * 30, "-1"):
        answer = await tutor.axios("PUT", f"/api/admin/users/{name}", json={"username": "named"})
        assert (name, answer.status_code in (400, 404)) == (name, True)


@pytest.mark.asyncio
async def test_paging_that_the_page_nests_by_mistake_is_honoured(tutor: Page) -> None:
    for number in range(25):
        content = NEW_USER | {"email": f"n{number}@test.local", "username": f"n{number}"}
        assert (await tutor.axios("POST", "/api/admin/users", json=content)).status_code == 201
    assert len(await users(tutor)) == 27
    second = await tutor.axios("GET", "/api/admin/users?params[page]=2&params[limit]=20&page=1&limit=5")
    assert len(second.json()["users"]) == 7
    models = await tutor.axios("GET", "/api/admin/models", params=PAGING)
    assert models.json()["total"] == len(models.json()["models"]) > 0


@pytest.mark.asyncio
async def test_every_field_of_the_form_is_kept_for_a_new_user_and_for_a_changed_one(tutor: Page) -> None:
    made = await tutor.axios("POST", "/api/admin/users", json=NEW_USER)
    assert made.status_code == 201
    assert re.fullmatch(r"\d{3,}", made.json()["user_id"])
    refused(await tutor.axios("POST", "/api/admin/users", json=NEW_USER), 409, "conflict")
    kept = (await users(tutor))["new.student@test.local"]
    shown = ("username", "role", "status", "full_name", "phone", "bio")
    assert {field: kept[field] for field in shown} == {field: NEW_USER[field] for field in shown}
    changed = {
        "email": "renamed@test.local",
        "username": "renamed",
        "role": "tutor",
        "status": "inactive",
        "full_name": "Re Named",
        "phone": "456",
        "bio": "Again.",
    }
    answer = await tutor.axios("PUT", f"/api/admin/users/{number_of(kept)}", json=changed)
    assert answer.status_code == 200, answer.text
    after = (await users(tutor))["renamed@test.local"]
    assert {field: after[field] for field in changed} == changed


@pytest.mark.asyncio
async def test_banned_user_is_signed_out_at_once_and_cannot_come_back(
    scene: Scene, student: Page, tutor: Page
) -> None:
    number = number_of((await users(tutor))["student@test.local"])
    assert (
        await tutor.axios("PUT", f"/api/admin/users/{number}", json={"status": "banned"})
    ).status_code == 200
    refused(await student.fetch("GET", "/api/avatar/list"), 401, "not_authenticated")
    content = {"email": "student@test.local", "password": PASSWORD}
    assert (await scene.page().axios("POST", "/api/login", json=content)).status_code in (401, 403)


@pytest.mark.asyncio
async def test_new_role_counts_from_the_next_sign_in_and_the_old_token_is_gone(
    scene: Scene, student: Page, tutor: Page
) -> None:
    refused(await student.axios("GET", "/api/admin/users"), 403, "not_allowed")
    number = number_of((await users(tutor))["student@test.local"])
    await tutor.axios("PUT", f"/api/admin/users/{number}", json={"role": "tutor"})
    refused(await student.fetch("GET", "/api/avatar/list"), 401, "not_authenticated")
    again = await scene.signed_in("student")
    assert (await again.axios("GET", "/api/user/profile")).json()["role"] == "tutor"
    assert (await again.axios("GET", "/api/admin/users")).status_code == 200


@pytest.mark.asyncio
async def test_deleted_user_with_a_live_token_is_a_401_on_every_page(student: Page, tutor: Page) -> None:
    number = number_of((await users(tutor))["student@test.local"])
    gone = await tutor.axios("DELETE", f"/api/admin/users/{number}", json={"reason": ""})
    assert gone.status_code == 200, gone.text
    for path in ("/api/user/profile", "/api/chat/history", "/api/user_files", "/api/token_status"):
        refused(await student.fetch("GET", path), 401, "not_authenticated")
    refused(await tutor.axios("DELETE", f"/api/admin/users/{number}", json={"reason": ""}), 404)


@pytest.mark.asyncio
async def test_last_tutor_can_neither_leave_nor_be_locked_out_by_mistake(tutor: Page) -> None:
    number = number_of((await users(tutor))["tutor@test.local"])
    for change in ({"role": "student"}, {"status": "banned"}):
        refused(await tutor.axios("PUT", f"/api/admin/users/{number}", json=change), 409)
    refused(await tutor.axios("DELETE", f"/api/admin/users/{number}", json={"reason": "x"}), 409)


@pytest.mark.asyncio
async def test_what_tutors_do_is_in_the_log_with_old_and_new_values(tutor: Page) -> None:
    number = number_of((await users(tutor))["student@test.local"])
    await tutor.axios("PUT", f"/api/admin/users/{number}", json={"full_name": "Of Late"})
    await tutor.axios("DELETE", f"/api/admin/users/{number}", json={"reason": "left"})
    answer = await tutor.axios("GET", "/api/admin/user-action-logs", params={"page": 1, "per_page": 10})
    deleted, changed, *_ = answer.json()["logs"]
    assert deleted["operator_email"] == changed["operator_email"] == "tutor@test.local"
    assert deleted["reason"] == "left"
    assert changed["details"]["full_name"][1] == "Of Late"
    assert answer.json()["total"] >= 2
    by_email = {"page": 1, "per_page": 10, "operator_email": "nobody@test.local"}
    assert (await tutor.axios("GET", "/api/admin/user-action-logs", params=by_email)).json()["logs"] == []
    assert PASSWORD not in answer.text


@pytest.mark.asyncio
async def test_tutors_pages_are_closed_to_students(student: Page) -> None:
    calls = [
        ("GET", "/api/admin/users"),
        ("POST", "/api/admin/users"),
        ("PUT", "/api/admin/users/1"),
        ("DELETE", "/api/admin/users/1"),
        ("GET", "/api/admin/models"),
        ("GET", "/api/admin/knowledge"),
        ("GET", "/api/admin/user-action-logs"),
        ("GET", "/api/public_files"),
        ("GET", "/api/upload/users"),
    ]
    for method, path in calls:
        what = {"json": {}} if method in ("POST", "PUT") else {}
        refused(await student.axios(method, path, **what), 403, "not_allowed")


@pytest.mark.asyncio
async def test_bad_numbers_in_a_query_are_a_400_not_a_500(tutor: Page) -> None:
    for path in ("/api/admin/users", "/api/user/notifications", "/api/admin/user-action-logs"):
        for query in ("page=x", "page=0", "page=-1", "page=1e9", "page=" + "9" * 30, "params[page]=x"):
            answer = await tutor.axios("GET", f"{path}?{query}")
            assert (path, query, answer.status_code) == (path, query, 400)
            refused(answer, 400, "bad_request")
