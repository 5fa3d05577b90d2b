"""The machine of a run: its cores, its tools, the versions that a result depends on."""

import os
import platform
import re
import resource
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

# Tool -> Debian package.
TOOLS: Mapping[str, str] = {
    "nginx": "nginx-light",
    "wrk": "wrk",
    "redis-server": "redis-server",
    "pg_ctl": "postgresql",
    "taskset": "util-linux",
    "setpriv": "util-linux",
}
# Keep a process on its core, and end it with the benchmark (processes.py).
BOUND = ("taskset", "setpriv")
# Where Debian keeps what only root usually runs, as nginx.
SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin")
# For every connection of a client there is one to the upstream, beside logs, libraries and listeners.
SPARE_FILES = 256


class Missing(Exception):
    """Something that the run needs is not here; the text says what to install."""


@dataclass(frozen=True)
class Cores:
    """One core for what is measured, another for the load and the upstream."""

    measured: int
    load: int

    @classmethod
    def here(cls) -> "Cores":
        """Return the first two cores that this process may use. Raises Missing."""
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            raise Missing("two processor cores are needed: one for what is measured, one for the load")
        return cls(allowed[0], allowed[1])


def reserved(
    versions: Iterable[str], tools: Iterable[str] = (), packages: Iterable[str] = (), connections: int = 0
) -> tuple[Cores, dict[str, str]]:
    """Make ready for a run, with this process on the core of the load; return the cores and the machine.

    `connections` is how many the load will open at once. Raises Missing.
    """
    require((*tools, *BOUND), packages)
    allow_open_files(connections)
    cores = Cores.here()
    machine = described(versions)
    os.sched_setaffinity(0, {cores.load})
    return cores, machine


def tool(name: str) -> str | None:
    """Return the path of a tool, or None."""
    # Debian keeps several PostgreSQLs side by side and none of their servers on the PATH.
    clusters = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    folders = (os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS, *clusters)
    return shutil.which(name, path=os.pathsep.join(folders))


def require(tools: Iterable[str], packages: Iterable[str] = ()) -> None:
    """Raises Missing with one line for everything that is not here."""
    absent = sorted({TOOLS[name] for name in tools if tool(name) is None})
    modules = sorted({name for name in packages if find_spec(name.replace("-", "_")) is None})
    wanted = []
    if absent:
        wanted.append(f"Debian packages: apt-get install {' '.join(absent)}")
    if modules:
        wanted.append(
            f"Python packages ({', '.join(modules)}): python -m pip install -r requirements-bench.txt"
        )
    if wanted:
        raise Missing("; ".join(wanted))


def allow_open_files(connections: int) -> None:
    """Let this process and its children hold so many connections, each with a twin. Raises Missing."""
    wanted = 2 * connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Missing(f"{connections} users need {wanted} open files, {hard} are allowed: ulimit -n {wanted}")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def described(packages: Iterable[str]) -> dict[str, str]:
    """Return what a reader needs to judge the figures."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "date": date.today().isoformat(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "load before the run": load,
        "python": platform.python_version(),
        **{name: found for name in packages if (found := _version(name))},
        **{name: found for name in ("nginx", "wrk") if (found := _tool_version(name))},
    }


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tool_version(name: str) -> str | None:
    path = tool(name)
    if path is None:
        return None
    told = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?", told.stdout + told.stderr)
    return found[0] if found else None
