"""Pictures on disk, below one folder. Everything here blocks: it runs in threads.

A picture gets a new name each time, so what a name shows never changes. It is written beside its place and
then moved there: nobody ever sees half of one.
"""

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from backend.errors import InternalError, StorageFull
from backend.services.file_store import FULL

log = logging.getLogger("gateway.pictures")

NAME = re.compile(r"[0-9a-f]{32}\.(?:jpg|png)")
CONTENT_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}
PART = ".part"


class PictureStore:
    """One folder of pictures."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def aside(self) -> Path:
        """Return where something may be put aside that is not yet a picture; nothing is there yet."""
        return self._folder / (secrets.token_hex(16) + PART)

    def begin(self, path: Path) -> None:
        """Make an empty file that an upload is put aside in. Raises StorageFull."""
        with _told():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600, exist_ok=False)

    def add(self, path: Path, content: bytes) -> None:
        """Write the next piece of an upload. Raises StorageFull."""
        # Never makes the file anew: the upload may have been given up in the meantime.
        with _told(), path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(content)

    def put(self, make: Callable[[BinaryIO], str]) -> str:
        """Keep what `make` writes, which returns its suffix; return the name. Raises StorageFull."""
        path = self.aside()
        self.begin(path)
        try:
            with _told(), path.open("r+b") as file:
                suffix = make(file)
                file.flush()
                os.fsync(file.fileno())
            name = path.stem + suffix
            with _told():
                path.replace(self._folder / name)
            return name
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def get(self, name: str) -> bytes | None:
        """Return a picture, None where there is none of that name."""
        if not NAME.fullmatch(name):
            return None
        try:
            return (self._folder / name).read_bytes()
        except OSError:  # most often: there is none
            return None

    def drop(self, name: str) -> None:
        """Remove a picture, if there is one."""
        if NAME.fullmatch(name):
            (self._folder / name).unlink(missing_ok=True)

    def elder_than(self, seconds: float) -> Iterator[str]:
        """Yield the names of files that were last written so long ago."""
        if not self._folder.is_dir():
            return
        latest = time.time() - seconds
        with os.scandir(self._folder) as entries:
            for entry in entries:
                ours = NAME.fullmatch(entry.name) or entry.name.endswith(PART)
                if ours and entry.stat(follow_symlinks=False).st_mtime < latest:
                    yield entry.name

    def sweep(self, names: list[str]) -> None:
        """Remove files of ours, whatever they are."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)


@contextmanager
def _told() -> Iterator[None]:
    """A full disk is told as one; anything else that the disk says is for the log."""
    try:
        yield
    except OSError as exc:
        log.error("a picture cannot be written: %s", exc.strerror)
        raise (StorageFull if exc.errno in FULL else InternalError) from exc
