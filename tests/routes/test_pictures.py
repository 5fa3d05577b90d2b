"""Profile pictures over the wire."""

import asyncio

import httpx
import pytest

from tests.routes.conftest import Stage
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import Served, raw
from tests.support.pictures import SECRET, claiming, opened, photo, picture


async def uploaded(page: Frontend, content: bytes, name: str = "me.png") -> httpx.Response:
    """axios.post of a FormData with one file."""
    return await page.http.post(
        "/api/user/avatar", files={"avatar": (name, content, "image/png")}, headers=page.headers
    )


@pytest.mark.asyncio
async def test_uploaded_picture_is_shown_everywhere_without_a_token(
    student: Frontend, tutor: Frontend, visitor: Frontend
) -> None:
    stored = good(await uploaded(student, photo(6), "IMG_1.HEIC.exe"))
    assert set(stored) == {"msg", "avatar_url"}
    assert good(await student.get("/api/user/profile"))["avatar_url"] == stored["avatar_url"]
    rows = good(await tutor.get("/api/admin/users"))["users"]
    assert [row["avatar"] for row in rows] == ["", stored["avatar_url"]]
    shown = await visitor.http.get(stored["avatar_url"])
    assert shown.status_code == 200
    assert shown.headers["content-type"] == "image/jpeg"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in shown.headers["cache-control"]
    assert opened(shown.content).size == (256, 512)
    assert SECRET not in shown.content


@pytest.mark.asyncio
async def test_new_picture_has_a_new_address_so_that_no_browser_shows_the_old_one(
    served: Served, student: Frontend
) -> None:
    first = good(await uploaded(student, picture()))["avatar_url"]
    second = good(await uploaded(student, picture()))["avatar_url"]
    assert first != second
    assert (await student.http.get(second)).status_code == 200
    await served.gateway.pictures._errands.aclose()  # which removes the former file by itself
    refused(await student.http.get(first), 404)


@pytest.mark.asyncio
async def test_browser_that_has_the_picture_is_not_sent_it_again(student: Frontend) -> None:
    url = good(await uploaded(student, picture()))["avatar_url"]
    tag = (await student.http.get(url)).headers["etag"]
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        answer = await student.http.get(url, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert (await student.http.get(url, headers={"If-None-Match": '"x"'})).status_code == 200
    head = await student.http.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 100


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<svg onload=alert(1)>",
        b"GIF89a<script>",
        picture()[:-40],
        claiming(60_000, 60_000),
        b"\x00" * 999,
    ],
    ids=["empty", "svg", "polyglot", "cut", "bomb", "zeros"],
)
async def test_what_is_no_picture_is_refused_with_a_sentence(stage: Stage, content: bytes) -> None:
    assert "avatar" in refused(await uploaded(stage.student, content), 400, "bad_request")["msg"]


@pytest.mark.asyncio(loop_scope="module")
async def test_five_megabytes_is_the_limit(stage: Stage) -> None:
    small = picture("JPEG")
    good(await uploaded(stage.student, small + bytes(5 * (1 << 20) - len(small))))
    refused(await uploaded(stage.student, small + bytes(5 * (1 << 20) - len(small) + 1)), 413)
    refused(await uploaded(stage.student, bytes(20 << 20)), 413)


@pytest.mark.asyncio(loop_scope="module")
async def test_declared_length_over_the_limit_is_refused_before_a_byte_of_it(stage: Stage) -> None:
    head = (
        "POST /api/user/avatar HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {stage.student.token}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 900000000\r\n\r\n"
    )
    answer = await raw(stage.served.port, head.encode("ascii"))
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.asyncio(loop_scope="module")
async def test_picture_needs_a_sign_in(stage: Stage) -> None:
    refused(await uploaded(Frontend(stage.served.http), picture()), 401)
    refused(await uploaded(Frontend(stage.served.http, "null"), picture()), 401)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "path",
    [
        "/static/avatars/",
        "/static/avatars/default.jpg",
        "/static/avatars/" + "0" * 32 + ".jpg",
        "/static/avatars/" + "0" * 32 + ".svg",
        "/static/avatars/" + "A" * 32 + ".jpg",
        "/static/avatars/" + "0" * 32 + ".part",
        "/static/avatars/" + "0" * 32 + ".jpg%0a",
        "/static/avatars/" + "x" * 5000,
        "/static/avatars/%E2%80%A6",
        "/static/avatars/..%5c..%5cgateway.db",
        "/static/avatars/../../gateway.db",
        "/static/avatars/..%2f..%2fgateway.db",
        "/static/avatars/%2e%2e/%2e%2e/gateway.db",
        "/static/avatars/..%252f..%252fgateway.db",
        "/static/avatars/%c0%ae%c0%ae/gateway.db",
        "/static/avatars//etc/passwd",
        "/static/avatars/%2fetc%2fpasswd",
        "/static/avatars/x%00.jpg",
        "/static/gateway.db",
    ],
)
async def test_no_other_file_is_reached_by_any_spelling(stage: Stage, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await raw(stage.served.port, head.encode("ascii"))
    status = int(answer.split(b" ", 2)[1])
    assert status in (400, 404), answer
    assert b"content-type: application/json" in answer.lower()
    assert b"SQLite" not in answer


@pytest.mark.asyncio
async def test_many_pictures_at_once_leave_the_gateway_answering(served: Served, student: Frontend) -> None:
    large = picture("JPEG", (4000, 3000))
    uploads = [asyncio.create_task(uploaded(student, large)) for _ in range(6)]
    answers = 0
    while not all(upload.done() for upload in uploads):
        assert (await served.http.get("/api/ping")).status_code == 200
        answers += 1
        await asyncio.sleep(0.01)
    assert {upload.result().status_code for upload in uploads} == {200}
    assert answers >= 3
