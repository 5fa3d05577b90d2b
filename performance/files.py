"""Report files: tried before any load, and written whole or not at all."""

import os
from pathlib import Path

from performance.outcome import Unusable


def check_writable(path: Path) -> None:
    """Raises Unusable."""
    if path.exists() and not path.is_file():
        raise Unusable(f"cannot write {path}: it is not a plain file")
    part = _part_file(path)
    try:
        part.touch()
        part.unlink()
    except OSError as error:
        raise Unusable(f"cannot write {path}: {error.strerror}") from error


def write_atomically(path: Path, text: str) -> None:
    """Raises Unusable."""
    part = _part_file(path)
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Unusable(f"cannot write {path}: {error.strerror}") from error


def _part_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")
