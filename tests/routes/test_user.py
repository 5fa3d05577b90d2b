"""Profile and notifications as the frontend uses them."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import delete

from backend.config import Settings
from backend.models import User
from backend.services import notifications
from tests.routes.conftest import Stage
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import Served, serving

PROFILE = {"email", "role", "username", "full_name", "bio", "phone", "avatar_url"}


async def put(page: Frontend, path: str) -> httpx.Response:
    """fetch, which sets a JSON content type without a body."""
    return await page.http.put(path, headers=page.headers | {"Content-Type": "application/json"})


async def saved(page: Frontend, **fields: Any) -> dict[str, Any]:
    assert isinstance(good(await page.json("/api/user/profile", fields))["msg"], str)
    shown: dict[str, Any] = good(await page.get("/api/user/profile"))
    return shown


@pytest.mark.asyncio
async def test_profile_right_after_sign_in_tells_the_console(student: Frontend, tutor: Frontend) -> None:
    shown = good(await student.get("/api/user/profile"))
    assert set(shown) == PROFILE
    assert (shown["email"], shown["username"], shown["role"], shown["avatar_url"]) == (
        "student@test.local",
        "student",
        "student",
        None,
    )
    assert good(await tutor.get("/api/user/profile"))["role"] == "tutor"


@pytest.mark.asyncio
async def test_change_is_shown_and_what_is_left_out_stays(student: Frontend) -> None:
    assert (await saved(student, username="Ann", full_name="Ann Lee", bio="Physics\nand maths\t!"))[
        "bio"
    ] == "Physics\nand maths\t!"
    shown = await saved(student, phone=" +1 (555) 010 ", username=None, role="tutor", email="x@y.z")
    assert (shown["username"], shown["phone"], shown["role"]) == ("Ann", "+1 (555) 010", "student")
    assert shown["email"] == "student@test.local"
    assert (await saved(student, username="", bio=""))["username"] == "student"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "'; DROP TABLE user; --",
        "{{7*7}} ${7*7} %s %n",
        "../../etc/passwd",
        "李雷 🎓 Ünï 👩‍🔬",
        "null",
    ],
)
async def test_odd_text_is_only_text(stage: Stage, text: str) -> None:
    fields = {"username": text, "full_name": text, "bio": text, "phone": text[:20].strip()}
    shown = await saved(stage.student, **fields)
    assert {name: shown[name] for name in fields} == fields


HOSTILE: list[Any] = [
    "a\x00b",
    "a\r\nSet-Cookie: x=1",
    "a\x1b[31mred",
    "a\x7f",
    "a\u0085b",
    "evil\u202egpj.exe",
    "half \ud800",
    "x" * 3000,
    7,
    True,
    ["a"],
    {"$ne": None},
    1e400,
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value)[:16])
@pytest.mark.parametrize("field", ["username", "full_name", "phone", "bio"])
async def test_hostile_value_is_refused_by_the_fields_name(stage: Stage, field: str, value: Any) -> None:
    if field == "bio" and value == "a\r\nSet-Cookie: x=1":
        return  # lines are meant there
    answer = await stage.student.http.post(
        "/api/user/profile",
        content=json.dumps({field: value}),
        headers=stage.student.headers | {"Content-Type": "application/json"},
    )
    assert field in refused(answer, 400, "bad_request")["msg"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"null", 400),
        (b"[]", 400),
        (b'{"username":', 400),
        (b"\xff\xfe{}", 400),
        (b"[" * 100_000, 400),
        (json.dumps({"bio": "x" * (1 << 20)}).encode(), 413),
        (json.dumps({"bio": "x" * 1_000_000}).encode(), 400),
    ],
)
async def test_body_that_is_no_object_or_too_large_is_no_mistake_of_ours(
    stage: Stage, content: bytes, status: int
) -> None:
    refused(
        await stage.student.http.post("/api/user/profile", content=content, headers=stage.student.headers),
        status,
    )


@pytest.mark.asyncio
async def test_deleted_account_with_a_live_token_is_told_to_sign_in(
    served: Served, student: Frontend
) -> None:
    await served.gateway.database.run(
        lambda session: session.execute(delete(User).where(User.email == "student@test.local")).close()
    )
    refused(await student.get("/api/user/profile"), 401, "not_authenticated")
    refused(await student.json("/api/user/profile", {"bio": "x"}), 401)


@pytest.mark.asyncio
async def test_two_tabs_that_save_at_once_lose_nothing(student: Frontend) -> None:
    await asyncio.gather(
        *(student.json("/api/user/profile", {"full_name": "Ann Lee"}) for _ in range(5)),
        *(student.json("/api/user/profile", {"bio": "hello"}) for _ in range(5)),
    )
    shown = good(await student.get("/api/user/profile"))
    assert (shown["full_name"], shown["bio"]) == ("Ann Lee", "hello")


@pytest.mark.asyncio
async def test_bell_shows_the_welcome_and_clicking_reads_it(student: Frontend) -> None:
    page = good(await student.get("/api/user/notifications"))
    assert set(page) == {"notifications", "unread_count", "total", "page", "limit"}
    (welcome,) = page["notifications"]
    assert set(welcome) == {"id", "title", "message", "type", "is_read", "created_at"}
    assert welcome["title"] == "Welcome"
    assert welcome["created_at"].endswith("Z")
    assert (page["unread_count"], page["total"], page["limit"], welcome["is_read"]) == (1, 1, 10, False)
    for _ in range(2):
        assert good(await put(student, f"/api/user/notifications/{welcome['id']}/read"))["msg"]
    page = good(await student.get("/api/user/notifications"))
    assert (page["unread_count"], page["notifications"][0]["is_read"]) == (0, True)


@pytest.mark.asyncio
async def test_pages_of_notifications_and_both_filters(served: Served, student: Frontend) -> None:
    for number in range(4):
        await served.gateway.notifications.tell(1, f"title {number}", "text")
    first = good(await student.http.get(
        "/api/user/notifications", params={"page": 1, "limit": 1}, headers=student.headers
    ))  # fmt: skip
    await put(student, f"/api/user/notifications/{first['notifications'][0]['id']}/read")

    async def titles(**wanted: str) -> list[str]:
        answer = await student.http.get("/api/user/notifications", params=wanted, headers=student.headers)
        return [row["title"] for row in good(answer)["notifications"]]

    assert await titles(page="2", limit="2") == ["title 1", "title 0"]
    assert await titles(unread_only="true", limit="2") == ["title 2", "title 1"]
    assert await titles(is_read="true") == ["title 3"]
    assert await titles(is_read="false", limit="1") == ["title 2"]
    assert await titles(page="1000000") == []


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "wanted", ["page=0", "page=-1", "page=x", "limit=0", "limit=101", "limit=9e9", "unread_only=maybe",
               "page=99999999999999999999", "is_read=2", "page=1%00", "page=%ff"]
)  # fmt: skip
async def test_senseless_page_is_no_mistake_of_ours(stage: Stage, wanted: str) -> None:
    answer = await stage.student.http.get(f"/api/user/notifications?{wanted}", headers=stage.student.headers)
    refused(answer, 400)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "number", ["999999", "0", "00", "-1", "1.0", "x", "٣", "9" * 30, "9" * 5000, "2147483648", "1%20", "'--"]
)
async def test_notification_that_does_not_exist_is_not_found(stage: Stage, number: str) -> None:
    refused(await put(stage.student, f"/api/user/notifications/{number}/read"), 404, "not_found")


@pytest.mark.asyncio
async def test_nobody_reads_another_users_notification(
    served: Served, student: Frontend, tutor: Frontend
) -> None:
    mine = good(await student.get("/api/user/notifications"))["notifications"][0]["id"]
    refused(await put(tutor, f"/api/user/notifications/{mine}/read"), 404)
    assert good(await student.get("/api/user/notifications"))["unread_count"] == 1


@pytest.mark.asyncio
async def test_avatar_that_was_made_for_somebody_rings_once(student: Frontend) -> None:
    for _ in range(2):
        good(await student.urlencoded("/api/avatar/start", avatar_name="Ada Demo"))
    page = good(await student.get("/api/user/notifications"))
    assert [row["title"] for row in page["notifications"]] == ["Avatar ready", "Welcome"]
    assert "Ada Demo" in page["notifications"][0]["message"]


@pytest.mark.asyncio
async def test_avatar_starts_although_nobody_can_be_told(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings()) as served:
        student = Frontend(served.http, await served.token("student"))

        def fail(*_: Any, **__: Any) -> None:
            raise NotImplementedError

        monkeypatch.setattr(notifications, "notify", fail)
        assert good(await student.urlencoded("/api/avatar/start", avatar_name="Ada Demo"))["port"]
