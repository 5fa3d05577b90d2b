"""`run.py` as people start it: what it prints, what it refuses, and how it says so."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support.demo import greeting
from tests.support.forks import completed
from tests.support.gateway import KEY, ROOT, clean_environment, spawned
from tests.support.ports import free_port

SECRET = "s3cr3t-that-nobody-may-see-in-any-log"


def run(tmp_path: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Start `run.py` where it must end by itself."""
    return completed(
        arguments, clean_environment(GATEWAY_INSTANCE_DIR=str(tmp_path), **environment), tmp_path
    )


def test_the_demo_greets_with_accounts_and_lines_that_work(tmp_path: Path) -> None:
    with spawned(tmp_path, "--demo", "--demo-latency=0.05", anew=True) as gateway:
        text = greeting(gateway)
        for account in ("student@demo.local", "tutor@demo.local"):
            assert re.search(rf"{account}\s+Demo-pass1!", text)
        curls = [line.strip() for line in text.splitlines() if "curl" in line]
        assert len(curls) == 4
        done = subprocess.run(
            ["bash", "-euc", "\n".join(curls)],
            cwd=tmp_path,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        assert '"Ada Demo"' in done.stdout
        assert (tmp_path / "ada.png").read_bytes().startswith(b"\x89PNG")
        control = re.search(r"--control (http://\S+)", text)
        assert control is not None
        assert gateway.url.startswith("http://127.0.0.1:")
        assert gateway.stop() == 0
    assert "Traceback" not in gateway.log.read_text()


def test_a_second_demo_finds_the_accounts_of_the_first(tmp_path: Path) -> None:
    for _ in range(2):
        with spawned(tmp_path, "--demo", "--demo-latency=0.05") as gateway:
            assert gateway.stop() == 0


def test_help_names_every_option_and_starts_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "--help"],
        cwd=tmp_path,
        env=clean_environment(GATEWAY_INSTANCE_DIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--demo", "--demo-latency", "--demo-second", "--host", "--port", "--workers", "--server"):
        assert option in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--server=uvicorn", "--port=eighty", "--nonsense"])
def test_a_bad_option_is_explained(tmp_path: Path, option: str) -> None:
    done = run(tmp_path, option)
    assert done.returncode == 2
    assert option.split("=")[0] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--demo"], ["--workers=2"], ["--server=granian"]])
def test_a_taken_port_is_told_in_one_line(tmp_path: Path, arguments: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path, f"--port={port}", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"port {port}" in done.stderr
    assert "in use" in done.stderr


def test_a_host_that_is_not_here_is_told_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "--host=192.0.2.1", "--port=0")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "192.0.2.1" in done.stderr


def test_a_host_name_that_does_not_exist_is_told_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "--host=no-such-host.invalid", "--port=0")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no-such-host.invalid" in done.stderr


def test_bad_settings_are_all_named_and_no_secret_is_printed(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        PORT="eighty",
        WORKERS="0",
        GATEWAY_COLOUR="red",
        JWT_SECRET_KEY="short",
        DATABASE_URL=f"mysql://u:{SECRET}@db/x",
        REDIS_URL=SECRET,
    )
    assert done.returncode == 1
    for name in ("PORT", "WORKERS", "GATEWAY_COLOUR", "JWT_SECRET_KEY"):
        assert f"\n{name}:" in done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert "short" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"mysql://u:{SECRET}@db/x"),
        ("GATEWAY_MOUNTS", '[{"prefix":"/api/login","upstream":"http://a:1","auth":"none"}]'),
        ("AVATAR_SERVICE_URL", "http://a:1/one,http://b:1/two"),
        ("GATEWAY_TTS_MODELS", "/no/such/file.json"),
        ("GATEWAY_TLS_CERT", "/no/such/cert.pem"),
    ],
)
def test_settings_that_fail_later_stop_the_start_as_clearly(tmp_path: Path, name: str, value: str) -> None:
    key = {"GATEWAY_TLS_KEY": "/no/such/key.pem"} if name == "GATEWAY_TLS_CERT" else {}
    done = run(tmp_path, "--port=0", **{name: value}, **key)
    assert (done.returncode, done.stdout) == (1, "")
    assert name in done.stderr
    assert SECRET not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--workers=2", "--server=granian"])
def test_a_mistake_is_told_once_however_many_workers_there_are(tmp_path: Path, option: str) -> None:
    mounts = '[{"prefix":"/api/login","upstream":"http://a:1","auth":"none"}]'
    done = run(tmp_path, "--port=0", option, GATEWAY_MOUNTS=mounts)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("GATEWAY_MOUNTS") == 1


def test_a_database_that_cannot_be_reached_ends_the_start(tmp_path: Path) -> None:
    done = run(tmp_path, "--port=0", DATABASE_URL=f"postgresql://u:{SECRET}@127.0.0.1:1/x")
    assert done.returncode == 1
    assert "startup failed" in done.stderr
    assert "the server ended" not in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_demo_refuses_to_be_reached_from_outside(tmp_path: Path, host: str) -> None:
    done = run(tmp_path, "--demo", "--port=0", f"--host={host}")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "loopback" in done.stderr
    assert not (tmp_path / "demo.db").exists()


WATCHER = """
import sys, threading
opened = []
def hook(event, arguments):
    if event in ("socket.bind", "socket.connect", "sqlite3.connect", "subprocess.Popen", "os.mkdir"):
        opened.append((event, str(arguments)))
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        opened.append((event, str(arguments)))
sys.addaudithook(hook)
import run
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
from sqlalchemy.engine import Engine
import gc, asyncio, httpx, socket
kinds = (Engine, asyncio.AbstractEventLoop, httpx.AsyncClient, socket.socket)
assert not [o for o in gc.get_objects() if isinstance(o, kinds)]
print(opened)
"""


def test_importing_run_opens_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCHER],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(ROOT), PORT="not a port: nothing is read either"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_both_faces_belong_to_one_gateway(tmp_path: Path) -> None:
    program = (
        "import run\n"
        "assert run.app is run.app and run.flask_app is run.flask_app\n"
        "assert run._application().asgi._flask is run.flask_app\n"
        "try: run.nonsense\n"
        "except AttributeError as error: print('no', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=clean_environment(GATEWAY_INSTANCE_DIR=str(tmp_path), JWT_SECRET_KEY=KEY),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "no nonsense\n"), done.stderr


def test_the_flask_command_line_finds_the_application(tmp_path: Path) -> None:
    environment = clean_environment(GATEWAY_INSTANCE_DIR=str(tmp_path), JWT_SECRET_KEY=KEY)
    create = ["users", "create", "a@b.example", "--role", "tutor", "--password-stdin"]
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "run:flask_app", *create],
        cwd=ROOT,
        env=environment,
        input="Secret-pass1!\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "created tutor a@b.example (id 1)\n"), done.stderr


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    environment = {"JWT_SECRET_KEY": ""}
    keys = []
    for _ in range(2):
        with spawned(tmp_path, **environment) as gateway:
            assert gateway.stop() == 0
        keys.append((tmp_path / "jwt.key").read_text())
    assert keys[0] == keys[1]
    assert os.stat(tmp_path / "jwt.key").st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "command",
    [
        ["hypercorn", "run:app", "--bind", "127.0.0.1:{}"],
        ["granian", "run:app", "--interface", "asgi", "--port", "{}"],
    ],
    ids=["hypercorn", "granian"],
)
def test_the_servers_own_commands_serve_run_app(tmp_path: Path, command: list[str]) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", *(word.format(port) for word in command)],
        cwd=ROOT,
        env=clean_environment(GATEWAY_INSTANCE_DIR=str(tmp_path), JWT_SECRET_KEY=KEY),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        answer = _first_answer(f"http://127.0.0.1:{port}/api/health")
        assert answer.json() == {"status": "ok", "service": "avatar-gateway"}
        assert len(answer.headers.get_list("server")) == 1
        assert len(answer.headers.get_list("date")) == 1
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _first_answer(url: str) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=2) as http:
        for _ in range(200):
            try:
                return http.get(url)
            except httpx.TransportError:
                time.sleep(0.05)
    raise AssertionError(f"no answer at {url}")
