import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from backend.errors import InternalError, NotFound, Overloaded, StorageFull, UnsupportedMedia
from backend.services import file_store
from backend.services.file_kinds import KINDS, Inspection
from backend.services.file_store import FileStore, Writing, new_path
from tests.support import disk
from tests.support.documents import TEXT, archive, office


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[FileStore]:
    store = FileStore(tmp_path / "files")
    yield store
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte; mounting one takes root."""
    with disk.small_disk(tmp_path / "small", "1m") as mounted:
        if not mounted:
            pytest.skip("mounting a small disk needs root; the same is tested with a writer that fails")
        yield tmp_path / "small"


def beginning(store: FileStore, kind: str = "txt") -> Writing:
    return store.write(new_path(), Inspection(KINDS[kind]))


def files_in(folder: Path) -> list[Path]:
    return [place for place in folder.rglob("*") if place.is_file()]


async def whole(store: FileStore, path: str, size: int) -> bytes:
    reading = await store.open(path, size)
    try:
        content = b""
        while chunk := await reading.read():
            content += chunk
        return content
    finally:
        await reading.aclose()


@pytest.mark.asyncio
async def test_written_file_lies_whole_under_a_name_of_its_own(store: FileStore, tmp_path: Path) -> None:
    writing = beginning(store)
    for piece in (TEXT, TEXT):
        await writing.write(piece)
    written = await writing.finish()
    assert (written.size, written.sha256) == (2 * len(TEXT), hashlib.sha256(TEXT * 2).hexdigest())
    assert await whole(store, writing.path, written.size) == TEXT * 2
    (place,) = files_in(tmp_path)
    assert place == tmp_path / "files" / writing.path
    assert place.stat().st_mode & 0o777 == 0o600
    await store.remove(writing.path)
    await store.remove(writing.path)
    assert files_in(tmp_path) == []
    with pytest.raises(NotFound):
        await store.open(writing.path, 1)


@pytest.mark.asyncio
async def test_file_that_is_not_finished_is_nowhere_to_be_opened(store: FileStore, tmp_path: Path) -> None:
    writing = beginning(store)
    await writing.write(TEXT)
    with pytest.raises(NotFound):
        await store.open(writing.path, 1)
    await writing.discard()
    await writing.discard()
    assert files_in(tmp_path) == []


@pytest.mark.asyncio
async def test_content_is_looked_at_while_it_passes_and_at_the_end(store: FileStore, tmp_path: Path) -> None:
    text = beginning(store)
    await text.write(TEXT)
    with pytest.raises(UnsupportedMedia):
        await text.write(b"\x00")
    letter = beginning(store, "docx")
    await letter.write(archive("something/else.xml"))
    with pytest.raises(UnsupportedMedia):
        await letter.finish()
    for writing in (text, letter):
        await writing.discard()
    assert files_in(tmp_path) == []
    letter = beginning(store, "docx")
    await letter.write(office("word"))
    await letter.finish()


async def fill(store: FileStore) -> None:
    writing = beginning(store)
    try:
        for _ in range(8):
            await writing.write(b"x" * (1 << 18))
        await writing.finish()
    finally:
        await writing.discard()


@pytest.mark.asyncio
async def test_full_disk_is_told_and_nothing_is_left_on_it(small_disk: Path) -> None:
    store = FileStore(small_disk)
    with pytest.raises(StorageFull):
        await fill(store)
    assert files_in(small_disk) == []
    writing = beginning(store)
    await writing.write(TEXT)
    assert (await writing.finish()).size == len(TEXT)
    store.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EIO, InternalError),
        (errno.EROFS, InternalError),
    ],
)
async def test_failures_of_the_disk_are_told_apart(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_store.os, "fsync", fails)
    with pytest.raises(error) as caught:
        await fill(store)
    assert os.strerror(number) not in str(caught.value)
    assert files_in(tmp_path) == []


@pytest.mark.asyncio
async def test_sweep_removes_what_nobody_finished_and_nothing_else(store: FileStore, tmp_path: Path) -> None:
    assert await store.sweep(10) == 0
    done, old, fresh = (beginning(store) for _ in range(3))
    for writing in (done, old, fresh):
        await writing.write(TEXT)
    await done.finish()
    for place in files_in(tmp_path):
        if place.name != fresh.path.rpartition("/")[2]:
            os.utime(place, (1, 1))
    assert await store.sweep(60) == 1
    assert {place.name for place in files_in(tmp_path)} == {
        writing.path.rpartition("/")[2] for writing in (done, fresh)
    }
    for writing in (old, fresh):
        await writing.discard()


@pytest.mark.asyncio
async def test_cancelled_caller_waits_for_the_work_that_has_begun(store: FileStore) -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(10)
        ended.set()

    task = asyncio.ensure_future(store.run(work))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


@pytest.mark.asyncio
async def test_queue_before_the_disk_is_bounded(store: FileStore) -> None:
    go = threading.Event()
    most = file_store.DISK_THREADS + file_store.MOST_WAITING
    tasks = [asyncio.ensure_future(store.run(lambda: go.wait(10))) for _ in range(most)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await store.run(lambda: None)
    for task in tasks[file_store.DISK_THREADS :]:
        task.cancel()
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.run(lambda: None)


@pytest.mark.asyncio
async def test_store_that_is_closed_takes_no_work(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.close()
    with pytest.raises(Overloaded):
        await store.run(lambda: None)


@pytest.mark.asyncio
async def test_link_in_place_of_a_file_is_not_followed(store: FileStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = new_path()
    place = tmp_path / "files" / path
    place.parent.mkdir(parents=True)
    place.symlink_to(secret)
    with pytest.raises(InternalError):
        await store.open(path, 6)
