"""The tutors' console over the wire: who sees it, and what its pages list."""

from collections.abc import Callable

import pytest
from sqlalchemy import insert, update

from backend.config import Settings
from backend.models import StoredFile, User
from tests.routes.conftest import Stage
from tests.support.admin import FORM, UI_PAGE, listed, made, send
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import Served, serving
from tests.support.peer import Exchange, Peer
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
LISTS = ("/api/admin/users", "/api/admin/models", "/api/admin/knowledge", "/api/admin/user-action-logs")


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
