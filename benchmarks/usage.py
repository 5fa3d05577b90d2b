"""What a process and its children use of the machine, as Linux tells it under /proc."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import Process

PROC = Path("/proc")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
# How clock_getcpuclockid(3) makes the number of another process' clock.
PROCESS_CLOCK = 2
# Fields of /proc/PID/stat behind the name in brackets, which may hold spaces.
SESSION, USER_TICKS, SYSTEM_TICKS = 3, 11, 12


def resident_bytes(process: Process) -> int:
    return sum(_status(pid, "VmRSS") for pid in members(process))


def largest_resident_bytes(process: Process) -> int:
    """Return what the largest process of them has: growth of one is not lost in the size of the others."""
    return max(_status(pid, "VmRSS") for pid in members(process))


def largest_peak_bytes(process: Process) -> int:
    """Return the most that one of them had since `forget_peak`."""
    return max(_status(pid, "VmHWM") for pid in members(process))


def threads(process: Process) -> int:
    count = 0
    for pid in members(process):
        with contextlib.suppress(FileNotFoundError):
            count += len(os.listdir(PROC / str(pid) / "task"))
    return count


def peak_resident_bytes(process: Process) -> int:
    """Return the most that was resident since `forget_peak`."""
    return sum(_status(pid, "VmHWM") for pid in members(process))


def forget_peak(process: Process) -> None:
    """Let the peak begin at what is resident now: value 5 of clear_refs, see proc(5)."""
    for pid in members(process):
        with contextlib.suppress(FileNotFoundError):
            (PROC / str(pid) / "clear_refs").write_text("5")


def open_files(process: Process) -> int:
    count = 0
    for pid in members(process):
        with contextlib.suppress(FileNotFoundError):
            count += len(os.listdir(PROC / str(pid) / "fd"))
    return count


def processor_seconds(process: Process) -> float:
    ticks = 0
    for pid in members(process):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = _stat(pid)
            ticks += int(fields[USER_TICKS]) + int(fields[SYSTEM_TICKS])
    return ticks / TICKS


def exact_processor_seconds(process: Process) -> float:
    """Return it to the nanosecond, for what is short beside a tick: from the clocks of the processes."""
    nanoseconds = 0
    for pid in members(process):
        with contextlib.suppress(OSError):
            nanoseconds += time.clock_gettime_ns((~pid << 3) | PROCESS_CLOCK)
    return nanoseconds / 1e9


def members(process: Process) -> Iterator[int]:
    """Every process of the session: the leader and what it started."""
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if int(_stat(int(entry.name))[SESSION]) == process.pid:
                    yield int(entry.name)


def _stat(pid: int) -> list[str]:
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _status(pid: int, name: str) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return 0
