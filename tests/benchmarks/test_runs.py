"""Short runs of whole benchmarks, and the processes that they start."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.processes import Failure, environment, running
from benchmarks.viewers import watching
from tests.support.gateway import spawned

ROOT = Path(__file__).resolve().parents[2]
SMOKE_SECONDS = 60.0


def test_what_is_missing_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "tool", lambda name: None)
    with pytest.raises(
        machine.Missing, match=r"apt-get install nginx-light wrk; .*requirements-bench"
    ) as told:
        machine.require(["wrk", "nginx"], ["no-such-module", "json"])
    assert "\n" not in str(told.value)
    assert "no-such-module" in str(told.value)
    assert "json" not in str(told.value)


def test_no_setting_of_the_caller_reaches_a_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///elsewhere.db")
    monkeypatch.setenv("http_proxy", "http://192.0.2.1")
    assert not {"DATABASE_URL", "http_proxy"} & environment().keys()


def test_a_crowd_is_measured_and_reported(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    only = "--only=garbage,silent-upstream"
    page = _page_of("crowds", "--count=5", "--server=hypercorn", f"--json={raw}", only)
    assert "| hypercorn | 5 × garbage |" in page
    garbage, silent = json.loads(raw.read_text())["crowds"]
    assert (garbage["kind"], len(garbage["lasted"])) == ("garbage", 5)
    assert (silent["kind"], silent["lasted"], silent["after"]["calls"]) == ("silent-upstream", [], 0)


@pytest.mark.skipif(machine.tool("setpriv") is None, reason="apt-get install util-linux")
def test_a_process_and_its_children_end_with_their_block(tmp_path: Path) -> None:
    # The leader ignores SIGTERM and has a child of its own.
    script = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print(os.getpid(), os.fork(), flush=True); time.sleep(60)"
    )
    core = min(os.sched_getaffinity(0))
    with (
        contextlib.suppress(KeyboardInterrupt),
        running("stubborn", [sys.executable, "-c", script], core=core, folder=tmp_path) as process,
    ):
        while len(process.log.read_text().splitlines()) < 2:
            assert process.popen.poll() is None
        raise KeyboardInterrupt
    started = {int(pid) for pid in process.log.read_text().split()} - {0}
    assert len(started) == 2
    assert process.popen.returncode is not None
    # A killed child, too, has to wait for its turn on the core before it is gone.
    deadline = time.monotonic() + 30
    while {pid for pid in started if _runs(pid)} and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not {pid for pid in started if _runs(pid)}


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _page_of(benchmark: str, *options: str) -> str:
    """Run a benchmark to its end and return what it printed; skips where none can run."""
    if reason := _ready_for_a_run():
        pytest.skip(reason)
    ran = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{benchmark}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SMOKE_SECONDS,
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stderr  # on a busy machine a call may be slow, a ratio fall short
    return ran.stdout


def _ready_for_a_run() -> str | None:
    """Return why the benchmarks cannot run here, or None."""
    if machine.tool("nginx") is None and os.environ.get("CI") == "true":
        pytest.fail("nginx is missing, which install_async_deps.sh --dev installs")
    for tool, package in machine.TOOLS.items():
        if machine.tool(tool) is None:
            return f"{tool} is missing: apt-get install {package}"
    if find_spec("aiohttp") is None:
        return "aiohttp is missing: python -m pip install -r requirements-bench.txt"
    if len(os.sched_getaffinity(0)) < 2:
        return "two processor cores are needed"
    return None


def test_the_table_is_measured_and_reported(tmp_path: Path) -> None:
    raw, file = tmp_path / "raw.json", tmp_path / "table.md"
    short = ("--rounds=1", "--seconds=0.3", "--only=small")
    page = _page_of("table", *short, f"--json={raw}", f"--markdown={file}")
    assert file.read_text() == page
    assert re.search(r"\| small: gateway on Granian vs aiohttp .*× \|.* (ok|ok, goal|short) \|", page)
    told = json.loads(raw.read_text())
    assert set(told["results"]) == {"small/granian", "small/aiohttp"}
    assert all(one["value"] > 0 for rounds in told["results"].values() for one in rounds)


def test_uploads_at_once_are_measured_and_reported(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    page = _page_of("uploads", "--documents=2", "--rounds=1", f"--json={raw}", "--server=hypercorn")
    assert "| hypercorn | 3 | 140 MB | 40 MB |" in page
    (one,) = json.loads(raw.read_text())["uploaded"]
    assert one["peak_mb"] >= one["before_mb"] > 0


def test_websockets_are_measured_and_reported(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    page = _page_of("websockets", "--rounds=1", "--seconds=0.5", "--idle=20", f"--json={raw}")
    assert re.search(r"\| 65,536 bytes \| gateway, hypercorn \| 0.50× \| 1.00× \| .*× \|", page)
    told = json.loads(raw.read_text())
    assert set(told["idle"]) == {"nginx", "nginx, 64 KB", "gateway, granian", "gateway, hypercorn"}
    assert all(one["rate"] > 0 and one["microseconds"] >= 0 for one in told["rounds"])


def test_the_dashboard_is_looked_at_from_a_thread_while_something_else_happens(tmp_path: Path) -> None:
    with spawned(tmp_path) as served, watching(served.url, 2) as crowd:
        end = time.monotonic() + 30
        while crowd.events < 4:
            assert time.monotonic() < end
            time.sleep(0.1)
    with (
        spawned(tmp_path, GATEWAY_FIGURES="false") as served,
        pytest.raises(Failure, match="refused"),
        watching(served.url, 1),
    ):
        pass
