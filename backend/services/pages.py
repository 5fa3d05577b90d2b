"""Files of the gateway's own pages: read once, sent with a tag that changes with their content."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".json": b"application/json",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One file as it is sent."""

    content: bytes
    content_type: bytes
    tag: bytes

    @classmethod
    def read(cls, file: Path) -> "Page":
        return _read(file)

    @classmethod
    def of(cls, content: bytes, content_type: bytes) -> "Page":
        tag = b'"%s"' % hashlib.sha256(content).hexdigest()[:32].encode("ascii")
        return cls(content, content_type, tag)

    def is_known(self, if_none_match: bytes) -> bool:
        """Tell whether a caller has this content already (RFC 9110, 13.1.2)."""
        tags = [tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")]
        return self.tag in tags or b"*" in tags


@cache
def _read(file: Path) -> Page:
    """Read a file of the program itself: it is the same for every application of a process."""
    return Page.of(file.read_bytes(), TYPES[file.suffix])


def read_folder(folder: Path) -> dict[str, Page]:
    """Return every page of a folder by its file name."""
    return {file.name: Page.read(file) for file in sorted(folder.iterdir()) if file.suffix in TYPES}
