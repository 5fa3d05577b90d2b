"""Gateways as processes, and what tests ask of them."""

import asyncio
import contextlib
import os
import re
import socket
from pathlib import Path

import psutil
import pytest

from tests.support.gateway import Spawned

NOISE = re.compile(r"Traceback|unclosed|ResourceWarning|never retrieved|was never awaited|Exception")
BOTH = pytest.mark.parametrize("server", ["hypercorn", "granian"])


def clean(log: Path) -> bool:
    """Whether nothing was logged that a person would have to look into."""
    found = NOISE.search(log.read_text())
    assert found is None, log.read_text()
    return True


async def ended(gateway: Spawned, seconds: float = 30) -> int:
    """Wait for the process without blocking the loop."""
    return await asyncio.to_thread(gateway.process.wait, seconds)


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


def workers_of(gateway: Spawned) -> list[psutil.Process]:
    """The processes that were forked from the one that waits beside the supervisor."""
    found = []
    for child in psutil.Process(gateway.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += child.children()
    return found


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has collected yet does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
