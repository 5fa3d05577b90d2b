"""Files: attached to a chat, put into the knowledge base, listed, deleted by the name that was shown."""

import asyncio
from pathlib import Path

import pytest

from tests.contract.page import Page, opened
from tests.contract.stage import Scene
from tests.support.frontend import hidden, refused

TEXT = b"Light bends where it gets slower.\n" * 20
PDF = b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n"
OPTION = {"timeout": "30000"}


def attached(name: str, content: bytes = TEXT, kind: str = "text/plain") -> dict[str, object]:
    return {"files": {"file": (name, content, kind)}}


async def names(page: Page, path: str = "/api/user_files") -> list[str]:
    answer = await page.axios("GET", path, params=OPTION)
    assert answer.status_code == 200, answer.text
    return [file if isinstance(file, str) else file["filename"] for file in answer.json()["files"]]


@pytest.mark.asyncio
async def test_attached_file_is_listed_and_deleted_by_the_name_that_is_shown(
    scene: Scene, student: Page
) -> None:
    sent = await student.fetch("POST", "/api/chat/upload", **attached("lecture notes.txt"))
    assert sent.status_code == 200, sent.text
    assert {"file_path", "file_type", "filename"} <= set(sent.json())
    assert sent.json()["filename"] == "lecture notes.txt"
    assert await names(student) == ["lecture notes.txt"]
    assert any("lecture notes.txt" in held for held in scene.index.names.values())
    # axios encodes a blank and nothing else.
    gone = await student.axios("DELETE", "/api/upload/lecture%20notes.txt")
    assert gone.status_code == 200, gone.text
    assert await names(student) == []
    assert not any("lecture notes.txt" in held for held in scene.index.names.values())
    assert [file for file in _kept(scene) if file.is_file()] == []


@pytest.mark.asyncio
async def test_name_that_the_browser_cut_at_a_hash_still_means_the_only_file_it_can_mean(
    student: Page,
) -> None:
    sent = await student.fetch("POST", "/api/chat/upload", **attached("a b#1.txt"))
    assert sent.status_code == 200, sent.text
    (shown,) = await names(student)
    if "#" in shown:
        assert (await student.axios("DELETE", "/api/upload/a%20b")).status_code == 200
    else:
        assert (await student.axios("DELETE", f"/api/upload/{shown}")).status_code == 200
    assert await names(student) == []


@pytest.mark.asyncio
async def test_refused_upload_leaves_no_conversation_and_no_file(scene: Scene, student: Page) -> None:
    before = (await student.axios("GET", "/api/chat/history")).json()
    for name, content in (
        ("run.exe", b"MZ" + bytes(100)),
        ("fake.pdf", b"MZ" + bytes(100)),
        ("empty.txt", b""),
    ):
        answer = await student.fetch("POST", "/api/chat/upload", **attached(name, content))
        assert (name, answer.status_code in (400, 415)) == (name, True)
        refused(answer, answer.status_code)
    refused(await student.fetch("POST", "/api/chat/upload", files={"session_id": (None, "1")}), 400)
    assert (await student.axios("GET", "/api/chat/history")).json() == before
    assert await names(student) == []
    assert [file for file in _kept(scene) if file.is_file()] == []


@pytest.mark.asyncio
async def test_document_over_its_limit_is_a_413_with_words(student: Page) -> None:
    answer = await student.fetch("POST", "/api/chat/upload", **attached("long.txt", b"a" * (22 << 20)))
    refused(answer, 413, "too_large")
    assert await names(student) == []


@pytest.mark.asyncio
async def test_uploads_do_not_open_a_conversation_each(student: Page) -> None:
    await opened(student)
    for number in range(3):
        sent = await student.fetch("POST", "/api/chat/upload", **attached(f"n{number}.txt"))
        assert sent.status_code == 200, sent.text
    assert len((await student.axios("GET", "/api/chat/history")).json()) == 1


@pytest.mark.asyncio
async def test_failing_index_is_told_in_the_answer_and_the_file_is_kept(scene: Scene, student: Page) -> None:
    scene.index.mode = "fails"
    sent = await student.fetch("POST", "/api/chat/upload", **attached("notes.pdf", PDF, "application/pdf"))
    assert sent.status_code == 200, sent.text
    assert sent.json()["rag_indexed"] is False
    assert isinstance(sent.json()["rag_error"], str)
    hidden(sent)
    assert await names(student) == ["notes.pdf"]


@pytest.mark.asyncio
async def test_names_of_uploads_lose_paths_quotes_and_control_characters(scene: Scene, student: Page) -> None:
    for name in ("../../etc/passwd.txt", "a'b\"c.txt", "x\\y.txt", "tab\there.txt"):
        sent = await student.fetch("POST", "/api/chat/upload", **attached(name))
        assert sent.status_code == 200, sent.text
    told = [name for held in scene.index.names.values() for name in held]
    for shown in [*await names(student), *told]:
        assert not set(shown) & set("/\\'\"\t\x00"), shown


@pytest.mark.asyncio
async def test_nobody_sees_or_deletes_another_users_files(student: Page, tutor: Page) -> None:
    await student.fetch("POST", "/api/chat/upload", **attached("mine.txt"))
    assert await names(tutor) == []
    answer = await tutor.axios("DELETE", "/api/upload/mine.txt")
    assert answer.status_code in (200, 404)
    assert await names(student) == ["mine.txt"]


@pytest.mark.asyncio
async def test_tutors_upload_goes_to_the_public_base_and_is_listed_as_plain_text(
    scene: Scene, tutor: Page
) -> None:
    sent = await tutor.axios("POST", "/api/upload", **attached("Course.txt"))
    assert sent.status_code == 200, sent.text
    listed = (await tutor.axios("GET", "/api/public_files", params=OPTION)).json()["files"]
    assert set(listed) == {"Syllabus.pdf", "Course.txt"}
    assert "Course.txt" in scene.index.names[""]
    gone = await tutor.axios("DELETE", "/api/upload/Course.txt")
    assert gone.status_code == 200, gone.text
    assert await names(tutor, "/api/public_files") == ["Syllabus.pdf"]


@pytest.mark.asyncio
async def test_failing_index_of_the_knowledge_base_is_a_502_in_words(scene: Scene, tutor: Page) -> None:
    scene.index.mode = "fails"
    answer = await tutor.axios("POST", "/api/upload", **attached("Course.txt"))
    shown = refused(answer, 502)
    assert tutor.alerts[-1].shown == shown["msg"]
    scene.index.mode = "answers"
    assert "Course.txt" not in await names(tutor, "/api/public_files")


@pytest.mark.asyncio
async def test_deleting_what_nobody_knows_is_a_404_whatever_the_name(student: Page) -> None:
    for name in ("nothing.txt", "a%2Fb.txt", "a/b.txt", "%00", "..%2f..%2fx", "'; drop", "x" * 3000):
        answer = await student.http.request(
            "DELETE", f"/api/upload/{name}", headers={"Authorization": f"Bearer {student.token}"}
        )
        assert (name[:20], answer.status_code in (400, 404)) == (name[:20], True)
        refused(answer, answer.status_code)


@pytest.mark.asyncio
async def test_uploads_at_the_same_time_of_one_name_are_both_there(student: Page) -> None:
    sent = await asyncio.gather(
        *(
            student.fetch("POST", "/api/chat/upload", **attached("same.txt", TEXT + b"%d" % n))
            for n in range(3)
        )
    )
    assert {answer.status_code for answer in sent} == {200}
    assert len(set(await names(student))) == 3


def _kept(scene: Scene) -> list[Path]:
    folder = scene.served.gateway.settings.files_dir
    return [file for file in folder.rglob("*") if "avatars" not in file.parts] if folder.exists() else []
