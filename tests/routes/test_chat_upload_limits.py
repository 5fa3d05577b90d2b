"""Files beyond a limit, uploads that break off, and an index that is slow or away."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backend.services import accounts, file_store, indexing, uploads
from backend.services.file_kinds import ATTACHMENTS
from tests.support.documents import PDF, PNG, TEXT
from tests.support.forms import MULTIPART, Part, written
from tests.support.frontend import good, refused
from tests.support.gateway import raw
from tests.support.peer import until
from tests.support.shelves import Shelves, attach, named, post, remove, shelves

MEGABYTE = 1 << 20


def opening(token: str | None, length: int) -> bytes:
    """The head of an upload whose body a test sends by hand."""
    return (
        f"POST /api/chat/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: {MULTIPART.decode()}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


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
    answer = await raw(desk.served.port, opening(desk.student.token, length) + head, read=12)
    assert answer == b"HTTP/1.1 413"
    desk.nothing_is_left()


@pytest.mark.asyncio
async def test_sign_in_is_asked_for_before_the_body(desk: Shelves) -> None:
    assert await raw(desk.served.port, opening("null", 1_000_000), read=12) == b"HTTP/1.1 401"


async def begun(desk: Shelves, content: bytes, length: int) -> asyncio.StreamWriter:
    """Begin an upload and wait until a part of it lies on the disk."""
    head, _, _ = written([Part("file", content, "a.txt")]).partition(content)
    _, writer = await asyncio.open_connection("127.0.0.1", desk.served.port)
    writer.write(opening(desk.student.token, length) + head + content)
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
    _, writer = await asyncio.open_connection("127.0.0.1", desk.served.port)
    writer.write(opening(desk.student.token, len(form)) + form)
    await until(lambda: desk.index.asked == ["/user/upload"])
    writer.close()
    await asyncio.sleep(0.4)
    desk.index.speak.set()
    await until(lambda: desk.rows[0].state == "indexed")
    assert [notice.type for notice in desk.notices] == ["success"]
    assert await named(desk.student) == ["a.txt"]
