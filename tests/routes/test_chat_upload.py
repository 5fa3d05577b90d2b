"""Files that are attached to a chat: which are taken, by what name, and where each is found again."""

import hashlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from backend.models import Chat
from tests.support.documents import CONTENTS, PNG, TEXT
from tests.support.forms import MULTIPART, Part, written
from tests.support.frontend import good, refused
from tests.support.shelves import Shelves, attach, named, post, remove, shelves


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
