from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.processes import alive

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "backend.demo"]
SERVICES = ("catalogue", "manager", "model", "retrieval")
FREE = [*(f"--{name}-port=0" for name in (*SERVICES, "control")), "--instance-ports=auto"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([*DEMO, *FREE], cwd=ROOT, stdout=subprocess.PIPE, text=True) as started:
        yield started
        started.kill()


@pytest.fixture
def ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


def test_ready_line_tells_where_everything_is(ready: dict[str, Any]) -> None:
    assert ready.keys() == {"ready", *SERVICES, "control", "instance_ports"}
    assert ready["ready"] is True
    for name in ("catalogue", "manager", "model"):
        with urllib.request.urlopen(f"{ready[name]}/health", timeout=5) as answer:  # noqa: S310
            assert answer.status == 200


def test_world_with_second_addresses_tells_them_and_one_can_be_killed() -> None:
    with subprocess.Popen([*DEMO, *FREE, "--second"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        ready = json.loads(started.stdout.readline())
        control = ready["control"]
        assert len({ready[name] for name in ("catalogue", "catalogue-2", "model", "model-2")}) == 4
        done = run("fault", "refuse", "--service", "catalogue-2", "--control", control)
        assert done.returncode == 0, done.stderr
        with urllib.request.urlopen(f"{ready['catalogue']}/avatar/get_avatars", timeout=5) as answer:  # noqa: S310
            assert b"Ada" in answer.read()
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"{ready['catalogue-2']}/avatar/get_avatars", timeout=5)  # noqa: S310
        started.kill()


def test_fault_of_an_address_that_the_world_has_not_is_refused(ready: dict[str, Any]) -> None:
    done = run("fault", "refuse", "--service", "model-2", "--control", ready["control"])
    assert done.returncode == 1
    assert "--second" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_at_once_and_well(
    process: subprocess.Popen[str], ready: dict[str, Any], number: signal.Signals
) -> None:
    process.send_signal(number)
    assert process.wait(timeout=2) == 0


def test_fault_command_flips_a_switch_and_clears_it(ready: dict[str, Any]) -> None:
    control = ["--control", ready["control"]]
    flipped = run("fault", "500", "--path", "/health", *control)
    assert json.loads(flipped.stdout)["fault"] == "500"
    with pytest.raises(urllib.error.HTTPError) as failure:
        urllib.request.urlopen(f"{ready['catalogue']}/health", timeout=5)  # noqa: S310
    failure.value.close()
    assert run("fault", "off", *control).stdout == "no faults\n"


def test_fault_command_knows_the_model_and_the_faults_of_streams(ready: dict[str, Any]) -> None:
    flipped = run(
        "fault", "stream-stall", "--service", "model", "--times", "1", "--control", ready["control"]
    )
    assert json.loads(flipped.stdout) == {
        "service": "model",
        "path": "*",
        "fault": "stream-stall",
        "times": 1,
    }


def test_model_can_be_told_never_to_close_a_stream() -> None:
    command = [*DEMO, *FREE, "--latency=0", "--model-stays-open"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        ready = json.loads(started.stdout.readline())
        asked = json.dumps({"user_id": "1", "session_id": "1", "input": "hello"}).encode()
        connection = http.client.HTTPConnection(urlsplit(ready["model"]).netloc, timeout=10)
        connection.request("POST", "/chat/stream", asked)
        answer = connection.getresponse()
        while b'"finished"' not in answer.readline():
            pass
        assert answer.readline() == b"\n"
        connection.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            answer.read(1)
        answer.close()
        connection.close()
        started.terminate()
        assert started.wait(timeout=5) == 0


def test_fault_command_says_why_a_switch_was_refused(ready: dict[str, Any]) -> None:
    refused = run("fault", "refuse", "--times", "1", "--control", ready["control"])
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "refuse" in refused.stderr


def test_fault_command_without_a_world_says_so() -> None:
    alone = run("fault", "500", "--control", "http://127.0.0.1:1")
    assert alone.returncode == 1
    assert "Traceback" not in alone.stderr


def test_taken_port_is_one_line_with_the_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        failed = run(*FREE, "--manager-port", port)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.count("\n") == 1
    assert port in failed.stderr
    assert "--manager-port" in failed.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org"])
def test_host_beyond_this_machine_is_refused(host: str) -> None:
    refused = run(*FREE, "--host", host)
    assert refused.returncode == 2
    assert "loopback" in refused.stderr


def test_it_ends_when_its_parent_dies() -> None:
    spawn = (
        "import subprocess, sys\n"
        "world = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)\n"
        "world.stdout.readline()\n"
        "print(world.pid, flush=True)\n"
    )
    parent = [sys.executable, "-c", spawn, *DEMO, *FREE, "--exit-with-parent"]
    ended = subprocess.run(parent, cwd=ROOT, capture_output=True, text=True, timeout=10)
    pid = int(ended.stdout)
    deadline = time.monotonic() + 5
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
