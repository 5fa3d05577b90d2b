import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from backend.models import Chat
from backend.services import accounts, file_store, indexing, uploads
from backend.services.file_kinds import ATTACHMENTS
from tests.support.documents import CONTENTS, PDF, PNG, TEXT
from tests.support.forms import BOUNDARY, Part, written
from tests.support.frontend import good, refused
from tests.support.gateway import raw
from tests.support.peer import until
from tests.support.shelves import Shelves, attach, named, remove, shelves

MEGABYTE = 1 << 20
MULTIPART = b"multipart/form-data; boundary=" + BOUNDARY


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Shelves]:
    async with shelves(tmp_path) as desk:
        yield desk


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened_table(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shelves]:
    async with shelves(tmp_path_factory.mktemp("table")) as desk:
        yield desk


@pytest_asyncio.fixture(loop_scope="module")
async def table(opened_table: Shelves) -> AsyncIterator[Shelves]:
    """A desk for a whole table of cases; no case leaves a file behind."""
    yield opened_table
    for row in opened_table.rows:
        good(await remove(opened_table.student, row.name))
    opened_table.nothing_is_left()


def add_chat(desk: Shelves, role: str, title: str = "Optics") -> int:
    with desk.served.gateway.database.transaction() as session:
        chat = Chat(user_id=desk.user_id(role), title=title)
        session.add(chat)
        session.flush()
        return chat.id


@pytest.mark.asyncio
async def test_document_is_kept_indexed_shown_in_the_chat_and_can_be_loaded(desk: Shelves) -> None:
    chat = add_chat(desk, "student")
    answer = good(await attach(desk.student, "notes 1.txt", TEXT))
    assert answer == {
        "msg": "notes 1.txt was uploaded.",
        "session_id": chat,
        "message_id": 1,
        "file_id": 1,
        "file_path": "/api/files/1",
        "file_type": "document",
        "filename": "notes 1.txt",
        "rag_indexed": True,
        "chunk_count": 3,
    }
    digest = hashlib.sha256(TEXT).hexdigest()
    assert desk.index.private(desk.user_id("student")) == {"notes 1.txt": digest}
    (row,) = desk.rows
    assert (row.state, row.sha256, row.size, row.session_id) == ("indexed", digest, len(TEXT), chat)
    (message,) = desk.messages
    assert (message.role, message.file_type, message.file_path) == ("user", "document", "/api/files/1")
    (stored,) = desk.chats
    assert stored.message_count == 1
    (listed,) = good(await desk.student.get("/api/user_files"))["files"]
    assert listed.pop("created_at").endswith("Z")
    assert listed == {
        "id": 1,
        "filename": "notes 1.txt",
        "file_type": "document",
        "file_path": "/api/files/1",
        "session_id": chat,
        "size": len(TEXT),
    }
    loaded = await desk.student.http.get(answer["file_path"], headers=desk.student.headers)
    assert loaded.content == TEXT
    # Somebody waited for it, so nobody has to be notified.
    assert desk.notices == []


@pytest.mark.asyncio
async def test_loaded_file_is_never_run_as_a_page(desk: Shelves) -> None:
    good(await attach(desk.student, "光 速.txt", b"<script>alert(1)</script>"))
    for method in ("GET", "HEAD"):
        answer = await desk.student.http.request(method, "/api/files/1", headers=desk.student.headers)
        assert (
            answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%E5%85%89%20%E9%80%9F.txt"
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"] == "text/plain"
        assert answer.headers["content-length"] == "25"
        assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("number", ["999999", "0", "01x", "-1", "9" * 30, "%20", "1.0", "١", "null"])
async def test_file_that_is_not_there_is_404(table: Shelves, number: str) -> None:
    refused(await table.student.http.get(f"/api/files/{number}", headers=table.student.headers), 404)


@pytest.mark.asyncio
async def test_private_file_is_nobody_elses(desk: Shelves) -> None:
    good(await attach(desk.student, "a.txt", TEXT))
    refused(await desk.tutor.http.get("/api/files/1", headers=desk.tutor.headers), 404)
    assert await named(desk.tutor) == []
    refused(await desk.tutor.http.delete("/api/upload/a.txt", headers=desk.tutor.headers), 404)
    assert await named(desk.student) == ["a.txt"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("extension", CONTENTS)
async def test_every_kind_that_the_frontend_offers_is_taken(table: Shelves, extension: str) -> None:
    answer = good(await attach(table.student, f"a.{extension}", CONTENTS[extension]))
    assert answer["rag_indexed"] is (extension in ("pdf", "docx", "txt"))
    assert "rag_error" not in answer
    kinds = {"png": "image", "jpg": "image", "jpeg": "image", "gif": "image", "webp": "image"}
    kinds |= {"wav": "audio", "mp3": "audio", "m4a": "audio", "mp4": "other"}
    assert answer["file_type"] == kinds.get(extension, "document")
    assert table.rows[0].state == ("indexed" if answer["rag_indexed"] else "kept")


@pytest.mark.asyncio
async def test_upload_without_a_chat_goes_to_the_latest_and_makes_one_only_when_there_is_none(
    desk: Shelves,
) -> None:
    first = good(await attach(desk.student, "a.txt", TEXT))["session_id"]
    assert [chat.title for chat in desk.chats] == ["File: a.txt"]
    newer = add_chat(desk, "student")
    assert good(await attach(desk.student, "b.txt", TEXT))["session_id"] == newer
    assert good(await attach(desk.student, "c.txt", TEXT, session_id=str(first)))["session_id"] == first
    assert good(await attach(desk.student, "d.txt", TEXT, session_id=""))["session_id"] == first
    assert good(await attach(desk.student, "e.txt", TEXT, session_id=f"000{newer}"))["session_id"] == newer
    assert len(desk.chats) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("session_id", "status"),
    [("999", 404), ("foreign", 404), ("9" * 25, 404), ("abc", 400), ("-1", 400), ("1.5", 400), ("null", 400)],
)
async def test_wrong_chat_refuses_the_file_and_leaves_nothing(
    desk: Shelves, session_id: str, status: int
) -> None:
    foreign = add_chat(desk, "tutor")
    value = str(foreign) if session_id == "foreign" else session_id
    refused(await attach(desk.student, "a.txt", TEXT, session_id=value), status)
    desk.nothing_is_left()
    assert desk.messages == []
    assert len(desk.chats) == 1


@pytest.mark.asyncio
async def test_refused_upload_leaves_no_orphan_chat(desk: Shelves) -> None:
    refused(await attach(desk.student, "a.exe", TEXT), 415)
    refused(await attach(desk.student, "a.pdf", TEXT), 415)
    refused(await attach(desk.student, "a.txt", b""), 400)
    assert desk.chats == []
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_same_name_twice_is_numbered_the_same_everywhere(desk: Shelves) -> None:
    names = [good(await attach(desk.student, "a.txt", TEXT))["filename"] for _ in range(3)]
    assert names == ["a.txt", "a (2).txt", "a (3).txt"]
    assert sorted(await named(desk.student)) == sorted(names)
    assert sorted(desk.index.private(desk.user_id("student"))) == sorted(names)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("claimed", "name"),
    [
        ("../../../etc/cron.txt", "cron.txt"),
        ("..\\\\..\\\\boot.txt", "boot.txt"),
        ("a%00b.txt", "a_00b.txt"),
        ("gpj\u202etxt.txt", "gpjtxt.txt"),
        ("CON.txt", "_CON.txt"),
        ("a.txt...", "a.txt"),
        ("x' or 1=1 --.txt", "x or 1=1 --.txt"),
        ("y" * 2000 + ".txt", "y" * 146 + ".txt"),
    ],
)
async def test_hostile_name_is_harmless_in_list_index_and_disk(
    table: Shelves, claimed: str, name: str
) -> None:
    form = written([Part("file", TEXT, claimed)])
    headers = table.student.headers | {"Content-Type": MULTIPART.decode()}
    answer = good(await table.student.http.post("/api/chat/upload", content=form, headers=headers))
    assert answer["filename"] == name
    assert await named(table.student) == [name]
    assert list(table.index.private(table.user_id("student"))) == [name]
    (place,) = table.on_disk
    assert place.name.isalnum()


async def post(desk: Shelves, content: Any, content_type: bytes = MULTIPART) -> httpx.Response:
    headers = desk.student.headers | {"Content-Type": content_type.decode()}
    return await desk.student.http.post("/api/chat/upload", content=content, headers=headers)


FILE = Part("file", TEXT, "a.txt")
FORMS: dict[str, tuple[bytes, bytes, int]] = {
    "no file": (written([Part("session_id", b"")]), MULTIPART, 400),
    "nothing": (b"", MULTIPART, 400),
    "no parts": (written([]), MULTIPART, 400),
    "file as text": (written([Part("file", TEXT)]), MULTIPART, 400),
    "two files": (written([FILE, FILE]), MULTIPART, 400),
    "file elsewhere": (written([Part("other", TEXT, "a.txt")]), MULTIPART, 400),
    "no file chosen": (written([Part("file", b"", "")]), MULTIPART, 400),
    "empty file": (written([Part("file", b"", "a.txt")]), MULTIPART, 400),
    "field twice": (written([Part("a", b"1"), Part("a", b"2"), FILE]), MULTIPART, 400),
    "field is no UTF-8": (written([Part("a", b"\xff"), FILE]), MULTIPART, 400),
    "ten thousand parts": (written([FILE, *(Part(f"f{n}", b"") for n in range(10_000))]), MULTIPART, 400),
    "long field": (written([Part("a", b"x" * 70_000), FILE]), MULTIPART, 413),
    "no end": (written([FILE])[:-6], MULTIPART, 400),
    "long name": (written([Part("file", TEXT, "n" * 10_000 + ".txt")]), MULTIPART, 400),
    "garbage": (b"\x00" * 100, MULTIPART, 400),
    "missing boundary": (written([FILE]), b"multipart/form-data", 400),
    "other boundary": (written([FILE]), b"multipart/form-data; boundary=other", 400),
    "no form": (b"{}", b"application/json", 415),
    "urlencoded": (b"file=a", b"application/x-www-form-urlencoded", 415),
    "NUL in the name": (written([Part("file", TEXT, "a\x00.exe")]), MULTIPART, 415),
    "no extension": (written([Part("file", TEXT, "a")]), MULTIPART, 415),
    "content of another kind": (written([Part("file", PNG, "a.pdf")]), MULTIPART, 415),
    "binary at the end of a text": (written([Part("file", TEXT + b"\x00", "a.txt")]), MULTIPART, 415),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("form", FORMS)
async def test_wrong_form_is_refused_and_leaves_nothing(table: Shelves, form: str) -> None:
    content, content_type, status = FORMS[form]
    chats = len(table.chats)
    refused(await post(table, content, content_type), status)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 5000):
            yield content[start : start + 5000]

    refused(await post(table, pieces(), content_type), status)
    table.nothing_is_left()
    assert len(table.chats) == chats
    good(await attach(table.student, "a.txt", TEXT))


async def of_size(name: str, content: bytes, size: int) -> AsyncIterator[bytes]:
    """A form whose file begins with some content and has this size, sent in chunks."""
    head, _, end = written([Part("file", content, name)]).partition(content)
    yield head + content
    left = size - len(content)
    while left:
        yield b" " * min(left, MEGABYTE)
        left -= min(left, MEGABYTE)
    yield end


@pytest.mark.asyncio
@pytest.mark.parametrize(("name", "content"), [("a.txt", TEXT), ("a.png", PNG)])
async def test_largest_file_is_taken_and_one_byte_more_is_413(
    desk: Shelves, name: str, content: bytes
) -> None:
    most = ATTACHMENTS["document" if name == "a.txt" else "image"]
    shown = refused(await post(desk, of_size(name, content, most + 1)), 413, "too_large")
    assert f"{most // MEGABYTE} MB" in shown["msg"]
    desk.nothing_is_left()
    assert good(await post(desk, of_size(name, content, most)))["filename"] == name
    assert desk.rows[0].size == most


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "length"), [("a.txt", 22 * MEGABYTE), ("a.png", 12 * MEGABYTE), ("a.mp4", 200 * MEGABYTE)]
)
async def test_declared_length_is_refused_before_the_file_is_read(
    desk: Shelves, name: str, length: int
) -> None:
    head, _, _ = written([Part("file", TEXT, name)]).partition(TEXT)
    request = (
        f"POST /api/chat/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {desk.student.token}\r\n"
        f"Content-Type: {MULTIPART.decode()}\r\nContent-Length: {length}\r\n\r\n"
    )
    answer = await raw(desk.served.port, request.encode() + head, read=12)
    assert answer == b"HTTP/1.1 413"
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_sign_in_is_asked_for_before_the_body(desk: Shelves) -> None:
    request = (
        "POST /api/chat/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer null\r\n"
        f"Content-Type: {MULTIPART.decode()}\r\nContent-Length: 1000000\r\n\r\n"
    )
    assert await raw(desk.served.port, request.encode(), read=12) == b"HTTP/1.1 401"


async def begun(desk: Shelves, content: bytes, length: int) -> asyncio.StreamWriter:
    """Begin an upload and wait until a part of it lies on the disk."""
    head, _, _ = written([Part("file", content, "a.txt")]).partition(content)
    request = (
        f"POST /api/chat/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {desk.student.token}\r\n"
        f"Content-Type: {MULTIPART.decode()}\r\nContent-Length: {length}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", desk.served.port)
    writer.write(request.encode() + head + content)
    await until(lambda: bool(desk.on_disk))
    return writer


@pytest.mark.asyncio
async def test_client_that_leaves_midway_leaves_nothing(desk: Shelves) -> None:
    writer = await begun(desk, b"x" * 600_000, MEGABYTE)
    (row,) = desk.rows
    assert row.state == "arriving"
    assert await named(desk.student) == []
    writer.close()
    await until(lambda: desk.on_disk == [] and desk.rows == [], 10)
    assert desk.chats == []


@pytest.mark.asyncio
async def test_upload_that_stalls_is_told_so_and_leaves_nothing(
    desk: Shelves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PAUSE_SECONDS", 0.3)
    content = b"x" * 600_000
    head, _, _ = written([Part("file", content, "a.txt")]).partition(content)

    async def stalls() -> AsyncIterator[bytes]:
        yield head + content
        await asyncio.sleep(3)

    shown = refused(await post(desk, stalls()), 408)
    assert "timeout" in shown["msg"]
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_account_that_is_deleted_while_its_file_arrives_leaves_nothing(desk: Shelves) -> None:
    gate = asyncio.Event()
    content = b"x" * 600_000
    head, _, end = written([Part("file", content, "a.txt")]).partition(content)

    async def slow() -> AsyncIterator[bytes]:
        yield head + content
        await gate.wait()
        yield end

    sending = asyncio.ensure_future(post(desk, slow()))
    await until(lambda: bool(desk.on_disk))
    user = desk.user_id("student")
    await desk.served.gateway.database.run(lambda session: accounts.remove(session, user))
    gate.set()
    refused(await sending, 401)
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_quota_is_never_exceeded_by_uploads_at_once(tmp_path: Path) -> None:
    async with shelves(tmp_path, gateway_quota_mb=1.0) as desk:
        size = 400_000
        sent = [post(desk, of_size(f"{n}.txt", TEXT, size)) for n in range(6)]
        answers = await asyncio.gather(*sent)
        taken = [answer for answer in answers if answer.status_code == 200]
        assert len(taken) <= 2
        for answer in answers:
            if answer not in taken:
                assert "1 MB" in refused(answer, 413, "too_large")["msg"]
        assert sum(row.size for row in desk.rows) == sum(p.stat().st_size for p in desk.on_disk)
        assert sum(row.size for row in desk.rows) <= MEGABYTE
        while len(desk.rows) < 2:
            good(await post(desk, of_size("last.txt", TEXT, size)))
        refused(await attach(desk.student, "more.txt", b"x" * 300_000), 413)
        # What is removed makes room again; another person has room of their own.
        good(await remove(desk.student, desk.rows[0].name))
        good(await attach(desk.student, "more.txt", b"x" * 300_000))
        good(await attach(desk.tutor, "more.txt", b"x" * 900_000))


@pytest.mark.asyncio
async def test_file_that_just_fits_the_quota_is_taken(tmp_path: Path) -> None:
    async with shelves(tmp_path, gateway_quota_mb=1.0) as desk:
        refused(await attach(desk.student, "a.txt", b"x" * (MEGABYTE + 1)), 413)
        good(await attach(desk.student, "a.txt", b"x" * MEGABYTE))
        refused(await attach(desk.student, "b.txt", b"x"), 413)


@pytest.mark.asyncio
async def test_full_disk_is_507_and_leaves_nothing(desk: Shelves, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_store.os, "fsync", full)
    shown = refused(await attach(desk.student, "a.txt", TEXT), 507, "storage_full")
    assert shown["retryable"] is True
    desk.nothing_is_left()
    assert desk.chats == []
    monkeypatch.undo()
    good(await attach(desk.student, "a.txt", TEXT))


@pytest.mark.asyncio
async def test_uploads_of_one_person_at_once_are_bounded(
    desk: Shelves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MOST_OF_ONE", 1)
    writer = await begun(desk, b"x" * 600_000, MEGABYTE)
    refused(await attach(desk.student, "b.txt", TEXT), 429)
    good(await attach(desk.tutor, "b.txt", TEXT))
    monkeypatch.setattr(uploads, "MOST_AT_ONCE", 1)
    refused(await attach(desk.tutor, "c.txt", TEXT), 503)
    writer.close()
    await until(lambda: not desk.served.gateway.files._uploads._under_way, 10)
    good(await attach(desk.student, "b.txt", TEXT))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "words"),
    [(400, "could not read this file."), (500, "as soon as that is possible"), (503, "as soon as")],
)
async def test_index_that_fails_is_told_of_in_band_and_the_file_is_kept(
    desk: Shelves, status: int, words: str
) -> None:
    desk.index.answers["/user/upload"] = status, {"error": True, "message": "/srv/rag/x.py line 41"}
    answer = good(await attach(desk.student, "a.pdf", PDF))
    assert answer["rag_indexed"] is False
    assert words in answer["rag_error"]
    assert "srv" not in answer["rag_error"]
    assert await named(desk.student) == ["a.pdf"]
    assert desk.rows[0].state == ("failed" if status == 400 else "stored")


@pytest.mark.asyncio
async def test_index_that_is_down_keeps_no_file_out_and_gets_it_later(desk: Shelves) -> None:
    desk.index.answers["/user/upload"] = 503, {}
    assert good(await attach(desk.student, "a.txt", TEXT))["rag_indexed"] is False
    desk.index.answers.clear()
    indexing_ = desk.served.gateway.files.indexing
    assert await indexing_.sweep(indexing.WORKING_IN) == 0  # it is not due yet
    with desk.served.gateway.database.transaction() as session:
        row = session.get(type(desk.rows[0]), 1)
        assert row is not None
        row.due_at = row.created_at
    assert await indexing_.sweep(indexing.WORKING_IN) == 1
    assert desk.rows[0].state == "indexed"
    assert list(desk.index.private(desk.user_id("student"))) == ["a.txt"]
    (notice,) = desk.notices
    assert (notice.type, notice.message) == ("success", "a.txt can now be used to answer your questions.")


@pytest.mark.asyncio
async def test_wait_for_the_index_holds_no_database_connection(tmp_path: Path) -> None:
    async with shelves(tmp_path, gateway_view_threads=1) as desk:
        desk.index.mute.add("/user/upload")
        waiting = [asyncio.ensure_future(attach(desk.student, f"{n}.txt", TEXT)) for n in range(12)]
        await until(lambda: desk.index.asked.count("/user/upload") == indexing.MOST_AT_ONCE, 15)
        assert len(await named(desk.student)) == 12
        desk.index.speak.set()
        answers = await asyncio.gather(*waiting)
        assert all(good(answer)["rag_indexed"] for answer in answers)
        assert desk.index.most_at_once <= indexing.MOST_AT_ONCE


@pytest.mark.asyncio
async def test_client_that_leaves_during_indexing_is_notified_of_its_end(desk: Shelves) -> None:
    desk.index.mute.add("/user/upload")
    form = written([Part("file", TEXT, "a.txt")])
    request = (
        f"POST /api/chat/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {desk.student.token}\r\n"
        f"Content-Type: {MULTIPART.decode()}\r\nContent-Length: {len(form)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", desk.served.port)
    writer.write(request.encode() + form)
    await until(lambda: desk.index.asked == ["/user/upload"])
    writer.close()
    await asyncio.sleep(0.4)
    desk.index.speak.set()
    await until(lambda: desk.rows[0].state == "indexed")
    assert [notice.type for notice in desk.notices] == ["success"]
    assert await named(desk.student) == ["a.txt"]
