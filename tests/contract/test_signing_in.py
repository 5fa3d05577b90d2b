"""Signing in and out as tabs do it."""

import asyncio

import pytest

from tests.contract.page import Page
from tests.contract.stage import Scene
from tests.support.frontend import refused
from tests.support.gateway import PASSWORD


@pytest.mark.asyncio
async def test_every_set_of_headers_that_the_frontend_sends_passes_its_preflight(visitor: Page) -> None:
    sets = [
        ("GET", "/api/chat/history", "authorization,x-request-time"),
        ("POST", "/api/login", "content-type,x-request-time"),
        ("PUT", "/api/admin/users/007", "authorization,content-type,x-request-time"),
        ("DELETE", "/api/chat/1", "authorization,x-request-time"),
        ("GET", "/api/user/notifications", "authorization,content-type"),
        ("PUT", "/api/user/notifications/1/read", "authorization,content-type"),
        ("POST", "/api/chat/stream", "authorization"),
        ("POST", "/api/avatar/start", "authorization"),
        ("POST", "/api/sessionid", "authorization,content-type,sessionid"),
    ]
    for method, path, names in sets:
        await visitor.preflight(method, path, names)


@pytest.mark.asyncio
async def test_tab_signs_in_and_polls_without_being_thrown_out(student: Page) -> None:
    for _ in range(3):
        status = await student.axios("GET", "/api/token_status")
        assert status.status_code == 200
        assert status.json()["expires_in_seconds"] > 17_000
        assert status.json()["expires_in_minutes"] == pytest.approx(300, abs=5)
    assert not student.signed_out
    assert student.alerts == []


@pytest.mark.asyncio
async def test_poll_of_the_token_needs_no_service_behind_the_gateway(scene: Scene, student: Page) -> None:
    await scene.world.__aexit__(None, None, None)
    try:
        assert (await student.axios("GET", "/api/token_status")).status_code == 200
    finally:
        await scene.world.__aenter__()


@pytest.mark.asyncio
async def test_wrong_password_is_said_in_the_answers_own_words(scene: Scene, visitor: Page) -> None:
    answer = await visitor.axios(
        "POST", "/api/login", json={"email": "student@test.local", "password": "Wrong-horse1!"}
    )
    shown = refused(answer, 401, "not_authenticated")
    assert visitor.alerts[-1].shown == shown["msg"]


@pytest.mark.asyncio
async def test_logging_out_twice_with_bearer_null_is_never_a_401(student: Page) -> None:
    assert (await student.axios("POST", "/api/logout", json={})).status_code == 200
    student.token = None
    for _ in range(2):
        assert (await student.fetch("POST", "/api/logout", json={})).status_code == 200
    for authorization in ("Bearer null", "Bearer undefined", "Bearer", "Basic eDp5", "nonsense", ""):
        answer = await student.http.post("/api/logout", json={}, headers={"Authorization": authorization})
        assert (authorization, answer.status_code) == (authorization, 200)


@pytest.mark.asyncio
async def test_second_sign_in_throws_the_first_tab_out_at_its_next_poll(scene: Scene, student: Page) -> None:
    second = await scene.signed_in("student")
    for _ in range(100):
        if (await student.axios("GET", "/api/token_status")).status_code != 200:
            break
        await asyncio.sleep(0.05)
    assert student.signed_out
    assert (await second.axios("GET", "/api/token_status")).status_code == 200


@pytest.mark.asyncio
async def test_revoked_token_opens_no_route_at_all(scene: Scene, student: Page) -> None:
    token = student.token
    await student.axios("POST", "/api/logout", json={})
    headers = {"Authorization": f"Bearer {token}"}
    document = scene.served.document
    checked = 0
    for method, template in document.operations:
        if 401 in document.responses(method, template) and document.operations[method, template]["security"]:
            path = _filled(template)
            answer = await student.http.request(method, path, headers=headers)
            assert (method, path, answer.status_code) == (method, path, 401)
            refused(answer, 401, "not_authenticated")
            checked += 1
    assert checked > 10


@pytest.mark.asyncio
async def test_malformed_token_is_a_401_everywhere_not_a_422(student: Page) -> None:
    for token in ("null", "x", "a.b.c", "ey" * 900):
        answer = await student.http.get("/api/avatar/list", headers={"Authorization": f"Bearer {token}"})
        refused(answer, 401, "not_authenticated")


@pytest.mark.asyncio
async def test_bad_input_is_a_400_with_words_not_a_500(scene: Scene, visitor: Page) -> None:
    for content in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"email":7,"password":[]}',
        b"\xff\xfe",
        b"[" * 5000,
    ):
        for content_type in ("application/json", "text/plain", "multipart/form-data"):
            answer = await visitor.http.post(
                "/api/login", content=content, headers={"Content-Type": content_type}
            )
            assert answer.status_code in (400, 415), (content, answer.text)
            refused(answer, answer.status_code)


@pytest.mark.asyncio
async def test_signing_in_with_a_session_number_is_no_mistake(visitor: Page) -> None:
    for session in ("123456", 123456):
        content = {"email": "student@test.local", "password": PASSWORD, "sessionid": session}
        answer = await visitor.http.post("/api/login", json=content, headers={"sessionid": "123456"})
        assert set(answer.json()) == {"token"}


@pytest.mark.asyncio
async def test_unknown_route_and_method_are_told_in_json(student: Page) -> None:
    refused(await student.axios("GET", "/api/download/7"), 404, "not_found")
    refused(await student.axios("POST", "/api/nothing", json={}), 404, "not_found")
    refused(await student.axios("PUT", "/api/login", json={}), 405, "method_not_allowed")


def _filled(template: str) -> str:
    return "/".join("7" if part.startswith("{") else part for part in template.split("/"))
