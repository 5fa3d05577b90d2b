"""Knowledge bases: what is in the list, on the disk and in the index agrees, whatever fails."""

import asyncio
from pathlib import Path

import pytest

from backend.services import accounts, library
from backend.services.policies import Timeouts
from tests.models.conftest import database_url
from tests.support.documents import PDF, PNG, TEXT
from tests.support.frontend import Frontend, good, refused
from tests.support.peer import until
from tests.support.shelves import Shelves, attach, named, remove, shelves, teach

__all__ = ["database_url"]


async def public(desk: Shelves) -> list[str]:
    listed: list[str] = good(await desk.tutor.get("/api/public_files"))["files"]
    return listed


@pytest.mark.asyncio
async def test_tutors_document_is_for_everybody_and_students_for_themselves(desk: Shelves) -> None:
    answer = good(await teach(desk.tutor, "course.pdf", PDF))
    assert answer == {
        "msg": "course.pdf was added.",
        "admin": True,
        "ingest_file": "course.pdf",
        "page_collection": "pages",
        "chunk_collection": "chunks",
        "page_count": 1,
        "page_embs_num": 1,
        "chunk_embs_num": 3,
    }
    answer = good(await teach(desk.student, "notes.txt", TEXT))
    student = desk.user_id("student")
    assert (answer["admin"], answer["user_id"]) == (False, str(student))
    assert list(desk.index.public) == await public(desk) == ["course.pdf"]
    assert list(desk.index.private(student)) == await named(desk.student) == ["notes.txt"]
    assert good(await desk.tutor.get("/api/upload/users")) == {"users": [str(student)]}
    assert desk.notices == []


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/api/public_files", "/api/upload/users"])
async def test_lists_of_the_index_are_for_tutors(desk: Shelves, path: str) -> None:
    refused(await desk.student.get(path), 403, "not_allowed")


@pytest.mark.asyncio
async def test_knowledge_base_takes_documents_only(desk: Shelves) -> None:
    refused(await teach(desk.tutor, "a.png", PNG), 415)
    refused(await teach(desk.tutor, "a.mp4", b"x"), 415)
    desk.nothing_is_left()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "name", ["a b.txt", "光速 报告.txt", "a&b=c;d+e.txt", "100%.txt", "users", "a b#1.txt", "#1.txt"]
)
async def test_file_is_removed_by_the_name_that_the_frontend_sends(desk: Shelves, name: str) -> None:
    if name == "users":
        desk.index.private(desk.user_id("student"))[name] = "of former times"
    else:
        name = good(await teach(desk.student, name, TEXT))["ingest_file"]
    answer = good(await remove(desk.student, name))
    assert (answer["deleted_page_embs"], answer["deleted_chunks"]) == (1, 3)
    desk.nothing_is_left()
    refused(await remove(desk.student, name), 404)


@pytest.mark.asyncio
async def test_name_with_a_question_mark_arrives_in_two_parts_and_is_found(desk: Shelves) -> None:
    good(await teach(desk.student, "why?1.txt", TEXT))
    good(await teach(desk.student, "why?2.txt", TEXT))
    answer = await desk.student.http.delete("/api/upload/why?2.txt", headers=desk.student.headers)
    assert good(answer)["deleted_chunks"] == 3
    assert await named(desk.student) == ["why?1.txt"]


@pytest.mark.asyncio
async def test_cut_name_that_fits_two_files_removes_neither(desk: Shelves) -> None:
    for name in ("a b#1.txt", "a b#2.txt"):
        good(await teach(desk.student, name, TEXT))
    refused(await remove(desk.student, "a b#1.txt"), 404)
    assert len(await named(desk.student)) == len(desk.index.private(desk.user_id("student"))) == 2


@pytest.mark.asyncio
async def test_attached_file_is_removed_from_list_index_and_disk(desk: Shelves) -> None:
    for name, content in (("a.txt", TEXT), ("a.png", PNG)):
        good(await attach(desk.student, name, content))
    assert good(await remove(desk.student, "a.txt"))["deleted_chunks"] == 3
    assert good(await remove(desk.student, "a.png"))["deleted_chunks"] == 0
    assert "/user/delete" in desk.index.asked
    assert desk.index.asked.count("/user/delete") == 1
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_tutor_removes_public_documents_of_any_tutor_and_own_ones(desk: Shelves) -> None:
    good(await teach(desk.tutor, "course.txt", TEXT))
    good(await attach(desk.tutor, "mine.txt", TEXT))
    refused(await remove(desk.student, "course.txt"), 404)
    assert good(await remove(desk.tutor, "course.txt"))["deleted_chunks"] == 3
    assert good(await remove(desk.tutor, "mine.txt"))["deleted_chunks"] == 3
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_public_file_is_removed_before_an_own_one_of_that_name(desk: Shelves) -> None:
    good(await attach(desk.tutor, "a.txt", TEXT))
    good(await teach(desk.tutor, "a.txt", TEXT))
    good(await remove(desk.tutor, "a.txt"))
    assert await public(desk) == []
    assert await named(desk.tutor) == ["a.txt"]


@pytest.mark.asyncio
async def test_document_of_former_times_is_listed_and_removed_too(desk: Shelves) -> None:
    student = desk.user_id("student")
    desk.index.public["old course#2.pdf"] = "x"
    desk.index.private(student)["old notes.txt"] = "x"
    assert await public(desk) == ["old course#2.pdf"]
    assert good(await remove(desk.tutor, "old course#2.pdf"))["deleted_chunks"] == 3
    assert good(await remove(desk.student, "old notes.txt"))["deleted_chunks"] == 3
    refused(await remove(desk.student, "old notes.txt"), 404)
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_public_list_shows_what_the_index_lost_so_that_it_can_be_removed(desk: Shelves) -> None:
    good(await teach(desk.tutor, "a.txt", TEXT))
    desk.index.public.clear()
    assert await public(desk) == ["a.txt"]
    assert good(await remove(desk.tutor, "a.txt"))["deleted_chunks"] == 0
    desk.nothing_is_left()


@pytest.mark.asyncio
@pytest.mark.parametrize(("status", "shown"), [(400, 400), (500, 502), (503, 503), (504, 504)])
async def test_document_that_the_index_does_not_take_is_kept_nowhere(
    desk: Shelves, status: int, shown: int
) -> None:
    desk.index.answers["/admin/upload"] = status, {"error": True, "message": "CUDA error in /srv/rag"}
    error = refused(await teach(desk.tutor, "a.pdf", PDF), shown)
    assert "index" in error["msg"]
    if status == 504:
        # The index may still be at work: the row stays until it surely is not.
        assert [row.state for row in desk.rows] == ["deleting"]
        assert await named(desk.tutor) == []
    else:
        desk.nothing_is_left()
    assert await public(desk) == []


@pytest.mark.asyncio
async def test_document_that_the_index_took_without_saying_so_is_removed_again(desk: Shelves) -> None:
    desk.index.resets.add("/admin/upload")
    refused(await teach(desk.tutor, "a.pdf", PDF), 502, "upstream_broken")
    assert desk.index.public == {}
    assert desk.on_disk == []
    assert await public(desk) == []


@pytest.mark.asyncio
async def test_index_that_is_silent_is_504_with_the_word_timeout(
    desk: Shelves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "ADD_TIMEOUTS", Timeouts(first_byte=0.3))
    desk.index.mute.add("/user/upload")
    refused(await teach(desk.student, "a.pdf", PDF), 504)
    assert await named(desk.student) == []
    assert desk.on_disk == []
    desk.index.speak.set()


@pytest.mark.asyncio
async def test_index_that_is_not_running_takes_no_document_and_shows_no_list(tmp_path: Path) -> None:
    async with shelves(tmp_path, rag_url="http://127.0.0.1:1") as desk:
        refused(await teach(desk.tutor, "a.pdf", PDF), 502, "upstream_refused")
        desk.nothing_is_left()
        refused(await desk.tutor.get("/api/public_files"), 502)
        refused(await desk.tutor.get("/api/upload/users"), 502)
        refused(await remove(desk.tutor, "a.pdf"), 502)
        assert await named(desk.student) == []


@pytest.mark.asyncio
@pytest.mark.parametrize(("status", "shown"), [(500, 502), (503, 503)])
async def test_failed_removal_leaves_the_file_everywhere(desk: Shelves, status: int, shown: int) -> None:
    good(await teach(desk.student, "a.txt", TEXT))
    desk.index.answers["/user/delete"] = status, {"error": True, "message": "x"}
    refused(await remove(desk.student, "a.txt"), shown)
    assert await named(desk.student) == list(desk.index.private(desk.user_id("student"))) == ["a.txt"]
    assert [row.state for row in desk.rows] == ["indexed"]
    assert len(desk.on_disk) == 1
    desk.index.answers.clear()
    good(await remove(desk.student, "a.txt"))
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_removal_without_an_answer_is_told_and_finished_later(
    desk: Shelves, monkeypatch: pytest.MonkeyPatch
) -> None:
    good(await teach(desk.student, "a.txt", TEXT))
    monkeypatch.setattr(library, "REMOVE_TIMEOUTS", Timeouts(first_byte=0.3))
    desk.index.mute.add("/user/delete")
    shown = refused(await remove(desk.student, "a.txt"), 504)
    assert "will be removed as soon as the index answers" in shown["msg"]
    # The list shows neither what may be gone already, nor what is about to go.
    assert await named(desk.student) == []
    assert [row.state for row in desk.rows] == ["deleting"]
    assert good(await remove(desk.student, "a.txt"))["deleted_chunks"] == 0
    desk.index.speak.set()


@pytest.mark.asyncio
async def test_file_that_is_just_being_indexed_is_removed_when_that_is_done(desk: Shelves) -> None:
    desk.index.mute.add("/user/upload")
    uploading = asyncio.ensure_future(teach(desk.student, "a.txt", TEXT))
    await until(lambda: desk.index.asked == ["/user/upload"])
    assert await named(desk.student) == ["a.txt"]
    good(await remove(desk.student, "a.txt"))
    assert await named(desk.student) == []
    desk.index.speak.set()
    refused(await uploading, 404)
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_two_who_remove_one_file_at_once_both_succeed(desk: Shelves) -> None:
    good(await teach(desk.student, "a.txt", TEXT))
    answers = await asyncio.gather(*(remove(desk.student, "a.txt") for _ in range(4)))
    assert {answer.status_code for answer in answers} <= {200, 404}
    assert any(answer.status_code == 200 for answer in answers)
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_many_documents_at_once_end_in_agreement(desk: Shelves) -> None:
    answers = await asyncio.gather(*(teach(desk.student, "a.txt", TEXT) for _ in range(12)))
    names = sorted(good(answer)["ingest_file"] for answer in answers)
    assert len(set(names)) == 12
    assert sorted(await named(desk.student)) == names
    assert sorted(desk.index.private(desk.user_id("student"))) == names
    assert len(desk.on_disk) == 12


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path",
    ["a/b.txt", "..", "%2e%2e/x", "a%00b", "%ff", "x" * 3000, "a%2fb.txt", "'; DROP TABLE stored_file"],
)
async def test_hostile_name_in_the_address_is_refused_and_removes_nothing(desk: Shelves, path: str) -> None:
    good(await teach(desk.student, "b.txt", TEXT))
    answer = await desk.student.http.delete(f"/api/upload/{path}", headers=desk.student.headers)
    assert answer.status_code in (400, 404, 405)
    refused(answer, answer.status_code)
    assert await named(desk.student) == ["b.txt"]


@pytest.mark.asyncio
async def test_lists_do_not_mind_what_axios_puts_into_the_query(desk: Shelves) -> None:
    headers = desk.student.headers
    for query in ("timeout=30000", "params[page]=1", "timeout=x", "a"):
        assert good(await desk.student.http.get(f"/api/user_files?{query}", headers=headers))["total"] == 0


@pytest.mark.asyncio
async def test_deleted_account_with_a_live_token_is_401_and_never_500(desk: Shelves) -> None:
    user = desk.user_id("student")
    await desk.served.gateway.database.run(lambda session: accounts.remove(session, user))
    gone = Frontend(desk.served.http, desk.student.token)
    for _ in range(2):
        refused(await teach(gone, "a.txt", TEXT), 401)
        await asyncio.sleep(1)
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_both_databases_serve_files_alike(tmp_path: Path, database_url: str) -> None:
    async with shelves(tmp_path, database_url=database_url) as desk:
        answers = await asyncio.gather(*(attach(desk.student, "a.txt", TEXT) for _ in range(6)))
        answers += [await teach(desk.tutor, "course.pdf", PDF)]
        assert all(good(answer) for answer in answers)
        assert [chat.message_count for chat in desk.chats] == [len(desk.messages)] == [6]
        assert await public(desk) == ["course.pdf"]
        names = await named(desk.student)
        assert sorted(desk.index.private(desk.user_id("student"))) == sorted(set(names))
        for name in names:
            good(await remove(desk.student, name))
        good(await remove(desk.tutor, "course.pdf"))
        desk.nothing_is_left()
