"""Disks that are soon full."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[bool]:
    """Mount a disk of so many bytes ("64k") at a folder, which is made; tell whether that was allowed.

    It takes root, and the right to mount.
    """
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mounted = os.geteuid() == 0 and not subprocess.run(command, capture_output=True, check=False).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", place], check=True)


def fill(place: Path, most_bytes: int = 4 << 20) -> Path:
    """Leave no room where there is little; return the file that takes it."""
    filler = place / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        for _ in range(most_bytes // 4096):
            file.write(bytes(4096))
    return filler
