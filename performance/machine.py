"""The machine that the load comes from: what it is, and what it allows."""

import os
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from performance.outcome import Unusable

if sys.platform != "win32":
    import resource

SPARE_FILES = 64  # descriptors for what is no user's socket: files, event loop, terminal
# Two results can be compared when these are the same.
FINGERPRINT = ("processor", "cpus", "kernel", "python")


def described() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": usable_cores(),
        "processor": _processor(),
        "kernel": f"{platform.system()} {platform.release()}",
        "pyreqwest": version("pyreqwest"),
        "load": load_average(),
    }


def in_words(machine: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items() if value is not None)


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float | None:
    """How many programs wanted a core in the last minute, on average."""
    with suppress(OSError, AttributeError):
        return round(os.getloadavg()[0], 1)
    return None


def _processor() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def check_files(users: int) -> None:
    """Raises Unusable when so many users need more descriptors than are allowed."""
    wanted = users + SPARE_FILES
    if (allowed := raise_file_limit(wanted)) < wanted:
        raise Unusable(
            f"{users:,} users need {wanted:,} open files but this system allows {allowed:,}:"
            f" raise the hard limit (ulimit -Hn) or ask for at most {max(allowed - SPARE_FILES, 0):,} users"
        )


def raise_file_limit(wanted: int) -> int:
    """Raise the soft limit of open files as far as wanted and allowed; return what is allowed now."""
    if sys.platform == "win32":
        return wanted  # sockets are not counted as files there
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return wanted
    reachable = wanted if hard == unlimited else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    except (OSError, ValueError):
        return soft
    return reachable


def files_in_use() -> float | None:
    """Share of the descriptors that are allowed; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError):
        if soft != resource.RLIM_INFINITY:
            return len(os.listdir("/proc/self/fd")) / soft
    return None
