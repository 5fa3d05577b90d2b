"""Threads of a gateway share few arenas: asked of a process of its own, for it cannot be undone."""

import platform
import subprocess
import sys

import pytest

# Threads that are all alive at once, each with memory of its own; the C library tells of its arenas.
PROBE = """
import ctypes, threading
from backend import allocator

print(allocator.few_arenas() if {few} else None)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(9)

def hold():
    libc.malloc(ctypes.c_size_t(1000))
    together.wait(30)
    together.wait(30)

threads = [threading.Thread(target=hold) for _ in range(8)]
for thread in threads:
    thread.start()
together.wait(30)
libc.malloc_stats()
together.wait(30)
"""


def arenas(*, few: bool) -> tuple[str, int]:
    probe = [sys.executable, "-c", PROBE.format(few=few)]
    run = subprocess.run(probe, capture_output=True, text=True, timeout=60, check=True)
    return run.stdout.strip(), run.stderr.count("Arena ")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas")
def test_eight_threads_share_two_arenas() -> None:
    assert arenas(few=False)[1] > 2
    assert arenas(few=True) == ("True", 2)
