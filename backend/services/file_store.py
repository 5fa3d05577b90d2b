"""Uploaded files on disk: written piece by piece in threads, whole or not there at all."""

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from backend.errors import GatewayError, InternalError, NotFound, Overloaded, StorageFull
from backend.services.file_kinds import Inspection
from backend.services.threads import Threads

T = TypeVar("T")
Piece = bytes | bytearray

log = logging.getLogger("gateway.files")

# Of each file on its way so much is in memory, twice: a piece being filled and one being written.
PIECE_BYTES = 128 * 1024
READ_BYTES = 64 * 1024
DISK_THREADS = 4
# Each upload and download waits for one piece at a time.
MOST_WAITING = 1000
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Files on their way lie beside the others, for renaming to be one step.
ARRIVING = "arriving"


@dataclass(frozen=True, slots=True)
class Written:
    """A file that lies whole on the disk."""

    size: int
    sha256: str


def new_path() -> str:
    """Return a path for a new file; nothing of what a client says is in it."""
    name = uuid.uuid4().hex
    return f"{name[:2]}/{name[2:4]}/{name}"


class FileStore:
    """The folder of uploaded files. Paths are relative to it; every call works in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = Threads(DISK_THREADS, waiting=MOST_WAITING, name="files")

    def write(self, path: str, inspection: Inspection) -> "Writing":
        """Begin a file. Nothing is opened before its first piece."""
        return Writing(self, path, inspection)

    async def open(self, path: str, size: int) -> "Reading":
        """Open a file to be read as a body. Raises NotFound when it is gone."""
        return Reading(self, await self.run(lambda: _opened(self._folder / path)), size)

    async def remove(self, path: str) -> None:
        """Remove a file, and what there is of it if it was on its way; one that is gone is no failure."""
        await self.run(lambda: self.remove_now(path))

    async def sweep(self, older_than_seconds: float) -> int:
        """Remove what nobody finished; tell how many files."""
        return await self.run(lambda: _swept(self._folder / ARRIVING, older_than_seconds))

    async def run(self, work: Callable[[], T]) -> T:
        """Work in a thread; one that has begun is waited for, so that nothing is closed under its hands.

        Raises Overloaded, StorageFull for a full disk, InternalError for other failures of the disk.
        """
        with self._threads.place():
            try:
                begun = self._threads.executor.submit(_translated, work)
            except RuntimeError as exc:  # shut down
                raise Overloaded from exc
            result = asyncio.wrap_future(begun)
            try:
                return await asyncio.shield(result)
            except asyncio.CancelledError:
                if not begun.cancel():
                    await _ended(result)
                raise

    def place_of(self, path: str) -> tuple[Path, Path]:
        """Return where a file is written, and where it will lie."""
        return self._folder / ARRIVING / path.rpartition("/")[2], self._folder / path

    def remove_now(self, path: str) -> None:
        for place in self.place_of(path):
            place.unlink(missing_ok=True)

    def close(self) -> None:
        self._threads.close()


class Writing:
    """One file on its way to the disk: `write`, then `finish`, or `discard` in any other case."""

    def __init__(self, store: FileStore, path: str, inspection: Inspection) -> None:
        self._store = store
        self.path = path
        self._arriving, self._final = store.place_of(path)
        self._inspection = inspection
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._size = 0

    async def write(self, piece: Piece) -> None:
        """Append a piece. Raises StorageFull, UnsupportedMedia for content that is not what it claims."""
        await self._store.run(lambda: self._write(piece))

    async def finish(self) -> Written:
        """Look at the whole, see it onto the disk, and give it its place."""
        return await self._store.run(self._finish)

    async def discard(self) -> None:
        """Leave nothing behind."""
        await self._store.run(self._discard)

    def close(self) -> None:
        """Let go of the file without touching it."""
        if self._file is not None:
            self._file.close()

    def _write(self, piece: Piece) -> None:
        self._inspection.feed(piece)
        if self._file is None:
            self._arriving.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = open(self._arriving, "xb+", buffering=0, opener=_private)  # noqa: SIM115 - kept open
        written = 0
        while written < len(piece):  # a disk that fills up takes a part first
            written += self._file.write(memoryview(piece)[written:])
        self._hash.update(piece)
        self._size += len(piece)

    def _finish(self) -> Written:
        assert self._file is not None, "an empty file is refused before"  # noqa: S101 - a programming error
        self._inspection.finish(self._file)
        os.fsync(self._file.fileno())
        self._file.close()
        self._final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._arriving.rename(self._final)
        _sync_folder(self._final.parent)
        return Written(self._size, self._hash.hexdigest())

    def _discard(self) -> None:
        self.close()
        self._store.remove_now(self.path)


class Reading:
    """A stored file as a ByteStream of `size` bytes."""

    def __init__(self, store: FileStore, file: BinaryIO, size: int) -> None:
        self._store = store
        self._file = file
        self.size = size

    async def read(self) -> bytes:
        return await self._store.run(lambda: self._file.read(READ_BYTES))

    async def aclose(self) -> None:
        self._file.close()


async def _ended(result: asyncio.Future[T]) -> None:
    """Wait for work in a thread, however often this is cancelled: a disk's work ends by itself."""
    while not result.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([result])
    result.exception()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _opened(place: Path) -> BinaryIO:
    try:
        return open(place, "rb", buffering=0, opener=_private)
    except FileNotFoundError as exc:
        raise NotFound("This file is gone.") from exc


def _sync_folder(folder: Path) -> None:
    """A new name survives a crash once its folder is on the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swept(folder: Path, older_than_seconds: float) -> int:
    count = 0
    with contextlib.suppress(FileNotFoundError):
        for place in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if place.stat().st_mtime < _file_clock() - older_than_seconds:
                    place.unlink()
                    count += 1
    return count


def _file_clock() -> float:
    """Return the time that times of files are told by."""
    return time.time()


def _translated(work: Callable[[], T]) -> T:
    try:
        return work()
    except GatewayError:
        raise
    except OSError as exc:
        if exc.errno in FULL:
            log.error("the disk takes no more files: %s", exc.strerror)
            raise StorageFull from exc
        log.exception("the disk failed")
        raise InternalError("The file could not be stored or read.") from exc
