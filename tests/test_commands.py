"""Every command of the documents is run, as it stands there but for ports, places and other machines."""

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from backend.app import create_app
from backend.config import load
from backend.services.database import upgrade
from tests.support.demo import demo
from tests.support.gateway import ROOT, clean_environment, settings_for
from tests.support.pages import PAGES, code_lines, read
from tests.support.stores import store_url
from tests.support.tls import certificate

# Decisions and the log of changes tell of the past; pages in Chinese have the commands of the English ones.
TOLD = [page for page in PAGES if "decisions" not in page.parts and ".zh-CN" not in page.name]
TOLD = [page for page in TOLD if page.name != "CHANGELOG.md"]
INLINE = re.compile(r"(?<!`)`((?:\.venv/bin/|python -m |run\.py |bash |scripts/|\.ci/)[^`\n]+)`")
_PYTHONS = re.compile(r"python |run\.py|flask ")
GATEWAY = "http://127.0.0.1:8203"
PATIENCE_SECONDS = 120


def commands() -> list[str]:
    """Every command of every page, once, in the order in which a reader meets them."""
    found: dict[str, None] = {}
    for page in TOLD:
        text = read(page)
        lines = iter(code_lines(text))
        for line in lines:
            while line.endswith("\\"):
                line = line[:-1] + next(lines).strip()
            if line.strip():
                found[line.strip()] = None
        # A path that only points at a file is a link, a module with a hole in its name a pattern.
        found |= dict.fromkeys(_whole(one) for one in INLINE.findall(text) if "…" not in one)
    return list(found)


def _whole(command: str) -> str:
    """A command as one types it: sentences leave out which Python."""
    return (
        f".venv/bin/{'python ' * command.startswith('run.py')}{command}"
        if _PYTHONS.match(command)
        else command
    )


def of(pattern: str) -> list[str]:
    """The commands that a pattern fits in whole."""
    return [command for command in commands() if re.fullmatch(pattern, command)]


# Kind of command -> what it looks like. Each has a test below.
KINDS = {
    "ci": r"bash install_async_deps\.sh.*|scripts/\w+|\.ci/run",
    "setting": r"[A-Z_]+=('[^']*'|\S+)",
    "start": r"([A-Z_]+=\S+ )*\.venv/bin/python run\.py.*",
    "call": r"(TOKEN=\$\()?curl .*",
    "fault": r"\.venv/bin/python -m backend\.demo .*",
    "load": r"\.venv/bin/python test_async_performance\.py.*",
    "account": r"\.venv/bin/flask --app run:flask_app users .*",
    "tool": r"\.venv/bin/flask --app run:flask_app (?!users).*",
    "module": r"\.venv/bin/python -m (benchmarks|tests|scripts)\.\S+.*",
    "former": r"cp backend/instance/app\.db .*",
    "backup": r"(sqlite3|pg_dump|rsync) .*",
    "pip": r"\.venv/bin/python -m pip .*|\.venv/bin/pip-audit .*",
}


@dataclass
class Place:
    """A folder in which commands work as in a clone: nothing they write is the project's."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> "Place":
        for name in (
            "run.py",
            "backend",
            "benchmarks",
            "docs",
            "tests",
            "scripts",
            "performance",
            "test_async_performance.py",
        ):
            (folder / name).symlink_to(ROOT / name)
        for file in ROOT.glob("requirements*.txt"):
            (folder / file.name).symlink_to(file)
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "instance").mkdir()
        return cls(folder)

    def run(self, command: str, *, told: str = "", fine: tuple[int, ...] = (0,), **settings: str) -> str:
        """Run one command by bash and return what it prints."""
        ran = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment(**settings),
            input=told,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert ran.returncode in fine, f"{command}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout + ran.stderr

    def environment(self, **settings: str) -> dict[str, str]:
        inside = {"GATEWAY_INSTANCE_DIR": str(self.folder / "instance"), "PYTHONPATH": str(ROOT)}
        return clean_environment(**(inside | settings))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "clone"
    folder.mkdir()
    return Place.made(folder)


def test_every_command_is_of_a_kind_that_is_run_below() -> None:
    for command in commands():
        kinds = [kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, command)]
        assert len(kinds) == 1, f"{command!r} is of the kinds {kinds}: say in KINDS how it is tested"


def test_every_kind_still_has_commands() -> None:
    assert [kind for kind, pattern in KINDS.items() if not of(pattern)] == []


def test_commands_that_ci_runs_are_those_that_it_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for command in of(KINDS["ci"]):
        script, *_ = command.removeprefix("bash ").split()
        assert os.access(ROOT / script, os.X_OK), command
        if script == "install_async_deps.sh":
            assert "install_async_deps" in ci
            flags = [word for word in command.partition(" && ")[0].split() if word.startswith("--")]
            shown = subprocess.run(
                [ROOT / script, "--help"], capture_output=True, text=True, check=True
            ).stdout
            assert all(flag in shown for flag in flags), command
        elif script.startswith("scripts/"):
            assert script in ci or script == "scripts/test"
    told = subprocess.run(
        [ROOT / "scripts" / "test", "--version"], capture_output=True, text=True, check=True
    )
    assert "pytest" in told.stdout


@pytest.mark.parametrize("command", of(KINDS["setting"]))
def test_settings_are_taken_as_they_are_written(command: str) -> None:
    name, _, value = shlex.split(command)[0].partition("=")
    assert load({name: value, "REDIS_URL": "redis://127.0.0.1/0"} | {name: value}, None)


@pytest.mark.parametrize("command", of(KINDS["start"]))
def test_what_starts_a_gateway_starts_one(command: str, place: Place, tmp_path: Path) -> None:
    made = certificate(tmp_path)
    for name, file in (("chain.pem", made.cert), ("key.pem", made.key)):
        shutil.copy(file, place.folder / name)
    here = command.replace("/opt/avatar-gateway", str(place.folder))
    process = subprocess.Popen(
        ["bash", "-c", f"exec env {here} --host 127.0.0.1 --port 0"],
        cwd=place.folder,
        env=place.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        while (announced := re.search(r"avatar gateway on (https?://[^\s,]+)", said)) is None:
            line = process.stdout.readline()
            assert line, f"{command}\n{said}"
            said += line
        wait_for_answer(announced[1])
        os.kill(process.pid, signal.SIGTERM)
        said += process.communicate(timeout=60)[0]
        assert process.returncode == 0, said
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=20)


def wait_for_answer(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False, verify=False, timeout=2) as http:  # noqa: S501 - our own
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                if http.get("/api/ping").status_code == 200:
                    return
            time.sleep(0.05)
    raise AssertionError(f"no answer at {url}")


@pytest.mark.asyncio
async def test_calls_of_the_pages_work_one_after_another(place: Place, tmp_path: Path) -> None:
    calls = of(KINDS["call"])
    # A stream that never ends is read for a while.
    calls = [
        f"({one} --max-time 3 || test $? = 28)" if one.endswith("/stats/stream") else one for one in calls
    ]
    async with demo(tmp_path, "--demo-latency=0.1") as running:
        script = (
            "\n".join(["set -e", *calls]).replace(GATEWAY, running.gateway.url).replace("curl -s", "curl -sf")
        )
        printed = await asyncio.to_thread(place.run, script)
    assert "Ada Demo" in printed
    assert '"status": "finished"' in printed or '"status":"finished"' in printed
    assert "gateway_requests_total" in printed
    assert (place.folder / "ada.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.asyncio
async def test_faults_of_the_pages_can_be_set(place: Place, tmp_path: Path) -> None:
    async with demo(tmp_path, "--demo-latency=0.1", "--demo-second") as running:
        for command in of(KINDS["fault"]):
            where = "" if "--help" in command else f" --control {running.control}"
            assert await asyncio.to_thread(place.run, command + where)


@pytest.mark.asyncio
@pytest.mark.parametrize("command", of(KINDS["load"]))
async def test_load_script_does_what_the_pages_ask_of_it(command: str, place: Place, tmp_path: Path) -> None:
    (place.folder / "password.txt").write_text("Demo-pass1!\n")
    async with demo(tmp_path, "--demo-latency=0.1") as running:
        here = command.replace("https://gateway.example.org", running.gateway.url)
        here = here.replace("me@example.org", "student@demo.local")
        add = "" if "--base-url" in here else f" --base-url {running.gateway.url}"
        add += "" if "--help" in here else " --users 1,5"
        add += " --duration 5 --think 0.1" if "--duration" in here else ""
        add += " --calls 1000" if "--calls" in here else ""
        script, arrow, redirected = here.partition(" <")
        printed = await asyncio.to_thread(place.run, script + add + arrow + redirected)
    assert "100" in printed or "--help" in command


@pytest.mark.timeout(300)  # a dozen programs one after another, each for seconds on a busy machine
def test_accounts_are_managed_as_the_pages_say(place: Place) -> None:
    for email in ("ann@school.example", "sue@school.example"):
        create = f".venv/bin/flask --app run:flask_app users create {email} --role student --password-stdin"
        place.run(create, told="Secret-pass1!\n")
    for command in of(KINDS["account"]):
        answer = "Delete\ny\n" if " delete " in command else "Secret-pass1!\nSecret-pass1!\n"
        place.run(command, told=answer)
    listed = place.run(".venv/bin/flask --app run:flask_app users list")
    assert "ann@school.example" in listed
    assert "sue@school.example" not in listed


@pytest.mark.parametrize("command", of(KINDS["tool"]))
def test_tools_of_the_command_line_run(command: str, place: Place) -> None:
    # No service runs here, and the doctor says so.
    printed = place.run(command, fine=(0, 1) if "doctor" in command else (0,))
    assert len(printed.splitlines()) >= 2


@pytest.mark.parametrize("command", of(KINDS["module"]))
def test_modules_know_every_option_that_the_pages_name(command: str, place: Place) -> None:
    here = command.replace(" URL", " http://127.0.0.1:9").partition(" FILE")[0]
    if "scripts." in here:
        place.run(here if "--check" in here else f"{here} --check")
    else:
        assert "usage:" in place.run(f"{here} --help")


def test_former_database_is_copied_and_taken_over(place: Place, tmp_path: Path) -> None:
    (command,) = of(KINDS["former"])
    former = tmp_path / "former"
    (former / "backend" / "instance").mkdir(parents=True)
    with closing(sqlite3.connect(former / "backend" / "instance" / "app.db")) as database:
        database.execute("CREATE TABLE safeguard (id INTEGER PRIMARY KEY)")
    place.run(f"cd {former} && {command.replace('/opt/avatar-gateway', str(place.folder))}")
    assert (place.folder / "instance" / "gateway.db").is_file()


@pytest.mark.parametrize("command", of(KINDS["backup"]))
def test_backup_is_made(command: str, place: Place, tmp_path: Path) -> None:
    program = command.split()[0]
    if shutil.which(program) is None:
        missing = f"{program} is missing; on Debian as root: bash install_async_deps.sh --dev"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    upgrade(create_app(settings_for(place.folder / "instance")).flask)
    (place.folder / "instance" / "files").mkdir(exist_ok=True)
    (place.folder / "instance" / "files" / "one").write_text("kept")
    (tmp_path / "backup").mkdir()
    here = command.replace("/backup/", f"{tmp_path}/backup/")
    with store_url("postgresql" if program == "pg_dump" else "sqlite", tmp_path) as url:
        place.run(here.replace("postgresql://gateway@db.example.org/gateway", url))
    checks: dict[str, Callable[[], bool]] = {
        "sqlite3": lambda: (place.folder / "copy.db").stat().st_size > 4096,
        "pg_dump": lambda: (place.folder / "copy.dump").stat().st_size > 0,
        "rsync": lambda: (tmp_path / "backup" / "files" / "one").read_text() == "kept",
    }
    assert checks[program]()


@pytest.mark.parametrize("command", of(KINDS["pip"]))
def test_files_that_are_installed_from_exist(command: str) -> None:
    (name,) = re.findall(r"-r (\S+)", command)
    assert (ROOT / name).is_file()
