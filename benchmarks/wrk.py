"""wrk, the load for rates: its command line and what it prints."""

import math
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.machine import tool
from benchmarks.processes import Failure

CONNECTIONS = 32
ANSWER_SECONDS = 10
# Seconds of each unit in which wrk gives times.
UNITS: Mapping[str, float] = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw."""

    calls: int
    rate: float
    median_seconds: float
    p99_seconds: float
    failed: int


def load(
    url: str, headers: Mapping[str, str], seconds: float, core: int, connections: int = CONNECTIONS
) -> Load:
    """Call a URL as fast as it answers. Raises Failure, also when a single call failed.

    wrk knows whole seconds only: `seconds` is rounded up.
    """
    whole = max(1, math.ceil(seconds))
    command = [tool("taskset") or "taskset", "--cpu-list", str(core), tool("wrk") or "wrk"]
    command += ["--threads=1", f"--connections={connections}", f"--duration={whole}s"]
    command += [f"--timeout={ANSWER_SECONDS}s", "--latency"]
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}"]
    try:
        told = subprocess.run(
            [*command, url],
            capture_output=True,
            text=True,
            timeout=whole + 2 * ANSWER_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise Failure(f"wrk: {error.stderr.strip() or error.stdout.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise Failure(f"wrk did not end within {error.timeout:g} s") from error
    seen = parsed(told.stdout)
    if seen.failed or not seen.calls:
        raise Failure(f"{url}: {seen.failed} of {seen.calls} calls failed")
    return seen


def parsed(text: str) -> Load:
    """Read wrk's report. Raises Failure for anything else."""
    try:
        return Load(
            calls=int(_found(r"(\d+) requests in ", text)[1]),
            rate=float(_found(r"^Requests/sec:\s+([\d.]+)", text)[1]),
            median_seconds=_percentile("50", text),
            p99_seconds=_percentile("99", text),
            failed=_failed(text),
        )
    except ValueError as error:
        raise Failure(f"wrk's report cannot be read ({error}):\n{text}") from error


def _percentile(which: str, text: str) -> float:
    match = _found(rf"^\s+{which}%\s+([\d.]+)(us|ms|s|m|h)\s*$", text)
    return float(match[1]) * UNITS[match[2]]


def _failed(text: str) -> int:
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    return int(refused[1] if refused else 0) + sum(
        int(count) for count in (broken.groups() if broken else ())
    )


def _found(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise ValueError(f"no {pattern}")
    return match
