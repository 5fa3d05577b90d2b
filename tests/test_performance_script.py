"""The load script against a scripted gateway on a real socket."""

import asyncio
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SCRIPT = Path(__file__).resolve().parents[1] / "test_async_performance.py"
TOKEN = "header.payload.signature"
PASSWORD = "Correct-horse1!"
PREVIEW_SECONDS = 0.2
PROCESS_SECONDS = 15.0


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("performance_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


script = load_script()


@dataclass
class ScriptedGateway:
    """Answers as told; `replies` replaces the answer of a path, `paths` remembers what came."""

    url: str = ""
    latency: float = PREVIEW_SECONDS
    replies: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    fails_from: int = 1_000_000
    cuts_previews: bool = False
    paths: list[str] = field(default_factory=list)
    forms: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(content_length(head))
        status, reply, cut = await self.answer(head.split()[1], head, body)
        writer.write(f"HTTP/1.1 {status} Scripted\r\ncontent-length: {len(reply)}\r\n\r\n".encode())
        writer.write(reply[:10] if cut else reply)
        await writer.drain()
        return not cut

    async def answer(self, path: str, head: str, body: bytes) -> tuple[int, bytes, bool]:
        self.paths.append(path)
        if path in self.replies:
            return *self.replies[path], False
        if path == "/api/login":
            good = json.loads(body).get("password") in {PASSWORD, script.DEMO_PASSWORD}
            return (200, message(token=TOKEN), False) if good else (401, message(msg="wrong password"), False)
        if path in {"/api/ping", "/api/health"}:
            return 200, b"ok", False
        if f"authorization: bearer {TOKEN}" not in head:
            return 401, message(msg="no token"), False
        if path == "/api/avatar/preview":
            return await self.preview(body)
        return 200, message(Anna={"status": "ready"}), False

    async def preview(self, body: bytes) -> tuple[int, bytes, bool]:
        self.forms.append(body)
        number = len(self.forms)
        await asyncio.sleep(self.latency)
        if number >= self.fails_from:
            busy = message(
                msg=f"all [red]avatars busy {TOKEN}", code="busy", request_id=f"req-{number}", retryable=True
            )
            return 503, busy, False
        return 200, b"\x89PNG" * 1000, self.cuts_previews


def content_length(head: str) -> int:
    lines = [line for line in head.split("\r\n") if line.startswith("content-length:")]
    return int(lines[0].split(":")[1]) if lines else 0


def message(**members: Any) -> bytes:
    return json.dumps(members).encode()


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    scripted, started = ScriptedGateway(), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def serve_until_stopped() -> None:
        server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
        scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await stop.wait()
        server.close()
        exchanges = asyncio.all_tasks() - {asyncio.current_task()}
        for exchange in exchanges:
            exchange.cancel()
        await asyncio.gather(*exchanges, return_exceptions=True)
        await asyncio.sleep(0)  # lets the closed connections go

    thread = threading.Thread(target=loop.run_until_complete, args=(serve_until_stopped(),))
    thread.start()
    assert started.wait(PROCESS_SECONDS)
    yield scripted
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def arguments(gateway: ScriptedGateway, *more: str | Path) -> list[str]:
    return ["--base-url", gateway.url, "--users", "1,5", "--serial-calls", "1", *map(str, more)]


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | more


def run_process(*argv: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *argv],
        input=stdin,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )


@pytest.fixture(autouse=True)
def no_credentials_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOADTEST_EMAIL", "LOADTEST_PASSWORD", "LOADTEST_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_users_at_once_wait_as_long_as_one_user(gateway: ScriptedGateway) -> None:
    run = run_process("--base-url", gateway.url, "--users", "1,2,5")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("0 failed") == 4  # one by one, and three steps
    assert "Passed." in run.stdout
    assert gateway.forms == [b"avatar_name=Anna"] * (3 + 1 + 2 + 5)


def test_json_report_holds_every_step(gateway: ScriptedGateway, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("an older report")
    assert script.main(arguments(gateway, "--json", path)) == 0
    report = json.loads(path.read_text())
    assert (report["tool"], report["version"], report["base_url"]) == (
        "test_async_performance",
        1,
        gateway.url,
    )
    assert report["call"] == "POST /api/avatar/preview"
    assert report["when"].endswith("+00:00")
    assert set(report["machine"]) == {"python", "platform", "cpus", "pyreqwest"}
    assert report["serial"]["calls"] == 1
    assert report["serial"]["mean_seconds"] >= PREVIEW_SECONDS
    assert [step["users"] for step in report["steps"]] == [1, 5]
    assert [step["success_percent"] for step in report["steps"]] == [100, 100]
    assert [step["serial_extrapolated"] for step in report["steps"]] == [False, True]
    assert [step["bytes"] for step in report["steps"]] == [4000, 20000]
    assert report["steps"][1]["speed_up"] > 2
    assert list(tmp_path.iterdir()) == [path]


def test_markdown_report_holds_the_table(gateway: ScriptedGateway, tmp_path: Path) -> None:
    path = tmp_path / "run.md"
    assert script.main(arguments(gateway, "--markdown", path)) == 0
    rows = [line for line in path.read_text().splitlines() if line.startswith("|")]
    assert rows[0].split(" | ")[:2] == ["| users", "wall s"]
    assert [row.split()[1] for row in rows[2:]] == ["1", "5"]


def test_plot_is_an_svg_even_when_a_whole_step_failed(gateway: ScriptedGateway, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    gateway.fails_from = 3
    path = tmp_path / "run.svg"
    assert script.main(arguments(gateway, "--plot", path)) == 1
    assert "<svg" in path.read_text()


def test_plot_without_matplotlib_is_refused_before_any_load(gateway: ScriptedGateway, tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    run = run_process(*arguments(gateway, "--plot", tmp_path / "run.svg"), PYTHONPATH=str(tmp_path))
    assert run.returncode == 2
    assert run.stderr == "error: --plot needs matplotlib: python -m pip install matplotlib\n"
    assert gateway.paths == []


def test_failing_call_fails_the_run_and_is_named_with_its_first_request_id(
    gateway: ScriptedGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.fails_from = 3
    assert script.main(arguments(gateway, "--json", tmp_path / "run.json")) == 1
    assert "5 at once: 5 x 503 all [red]avatars busy *** (request id req-" in capsys.readouterr().out
    step = json.loads((tmp_path / "run.json").read_text())["steps"][1]
    assert (step["failed"], step["success_percent"], step["p50_seconds"], step["speed_up"]) == (5, 0, None, 0)
    assert step["failures"][0]["count"] == 5


def test_body_that_ends_early_is_a_failure(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.cuts_previews = True
    assert script.main(arguments(gateway)) == 1
    assert "end of file before message length reached" in capsys.readouterr().out


def test_ladder_is_not_climbed_when_no_single_call_succeeds(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.fails_from = 1
    assert script.main(arguments(gateway)) == 1
    assert len(gateway.forms) == 1
    assert "the ladder was not started" in capsys.readouterr().out


def test_call_over_its_timeout_is_a_failure(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(arguments(gateway, "--timeout", "0.1")) == 1
    assert "Timeout" in capsys.readouterr().out


def test_step_over_the_limit_fails_the_run(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(arguments(gateway, "--limit-seconds", "0.1")) == 1
    assert "is over the limit of 0.1 s" in capsys.readouterr().out
    assert script.main(arguments(gateway, "--limit-seconds", "5")) == 0


def test_wrong_password_ends_with_plain_words_and_without_load(gateway: ScriptedGateway) -> None:
    run = run_process(*arguments(gateway, "--email", "a@b.c", "--password", "Wrong-one1!"))
    assert run.returncode == 2
    assert "401 wrong password" in run.stderr
    assert gateway.paths == ["/api/login"]


def test_exit_code_survives_the_clients_thread_that_outlives_its_close(gateway: ScriptedGateway) -> None:
    wrong = arguments(gateway, "--email", "a@b.c", "--password", "Wrong-one1!")
    assert [run_process(*wrong).returncode for _ in range(8)] == [2] * 8  # aborted one time in ten


def test_gateway_that_is_not_there_is_a_connection_problem() -> None:
    run = run_process("--base-url", "http://127.0.0.1:1", "--token", TOKEN)
    assert run.returncode == 2
    assert "Connection refused" in run.stderr


def test_endpoint_the_ladder_needs_is_checked_first(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.replies["/api/avatar/list"] = 504, message(msg="avatar service timeout", request_id="r-1")
    assert script.main(arguments(gateway)) == 2
    assert "504 avatar service timeout (request id r-1)" in capsys.readouterr().err
    assert gateway.forms == []


def test_endpoint_the_ladder_does_not_need_may_fail(gateway: ScriptedGateway) -> None:
    gateway.replies["/api/tts/models"] = 404, b"<html>"
    assert script.main(arguments(gateway)) == 0


@pytest.mark.parametrize("listing", [{"Bea": {}}, [{"status": "x"}, {"name": "Bea"}]])
def test_first_avatar_is_found_in_either_form_of_the_list(listing: object) -> None:
    assert script.first_avatar(listing) == "Bea"


def test_empty_avatar_list_asks_for_a_name() -> None:
    with pytest.raises(script.Unusable, match="--avatar"):
        script.first_avatar({})


def test_any_path_can_be_measured(gateway: ScriptedGateway) -> None:
    gateway.replies["/api/slow"] = 200, b"{}"
    assert script.main(arguments(gateway, "--path", "/api/slow", "--method", "post")) == 0
    assert gateway.paths.count("/api/slow") == 1 + 1 + 5


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
def test_neither_token_nor_password_is_ever_printed(
    gateway: ScriptedGateway, tmp_path: Path, quiet: tuple[str, ...]
) -> None:
    gateway.fails_from = 3
    path = tmp_path / "run.json"
    account = ["--email", "a@b.c", "--password-stdin", "--json", str(path)]
    run = run_process(*arguments(gateway, *account, *quiet), stdin=f"{PASSWORD}\n")
    assert run.returncode == 1
    seen = run.stdout + run.stderr + path.read_text()
    assert TOKEN not in seen
    assert PASSWORD not in seen


def test_token_from_the_environment_replaces_the_login(gateway: ScriptedGateway) -> None:
    run = run_process(*arguments(gateway), LOADTEST_TOKEN=TOKEN)
    assert run.returncode == 0
    assert "/api/login" not in gateway.paths


def test_account_from_the_environment_is_used(gateway: ScriptedGateway) -> None:
    run = run_process(*arguments(gateway), LOADTEST_EMAIL="a@b.c", LOADTEST_PASSWORD="Wrong-one1!")
    assert run.returncode == 2


def test_nothing_is_asked_where_nobody_can_answer() -> None:
    run = run_process("--base-url", "http://gateway.invalid", stdin="a@b.c\nsecret\n")
    assert (run.returncode, run.stdout) == (2, "")
    assert "LOADTEST_EMAIL" in run.stderr


def test_report_that_cannot_be_written_is_noticed_before_any_load(
    gateway: ScriptedGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "missing" / "run.json", tmp_path):
        assert script.main(arguments(gateway, "--json", path)) == 2
        assert f"cannot write {path}" in capsys.readouterr().err
    assert gateway.paths == []


def test_file_limit_too_low_for_the_users_is_said_before_any_load(
    gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.resource, "getrlimit", lambda _: (256, 256))
    monkeypatch.setattr(script.resource, "setrlimit", lambda *_: None)
    assert script.main(["--base-url", gateway.url, "--users", "1000"]) == 2
    assert "at most 192 users" in capsys.readouterr().err
    assert gateway.paths == []


@pytest.mark.parametrize(
    "wrong",
    [
        ["--users", "0"],
        ["--users", "1,x"],
        ["--users", "999999"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--serial-calls", "-1"],
        ["--base-url", "ftp://host"],
        ["--base-url", "http://user:secret@host"],
        ["--path", "ping"],
        ["--method", "GET"],
    ],
)
def test_wrong_usage_exits_with_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        script.main(wrong)
    assert stopped.value.code == 2
    assert "secret@" not in capsys.readouterr().err


def test_ctrl_c_prints_and_reports_the_finished_steps(gateway: ScriptedGateway, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    argv = [
        "--base-url",
        gateway.url,
        "--users",
        "1,2,3,4,5,6,7,8,9",
        "--serial-calls",
        "1",
        "--json",
        str(path),
    ]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *argv], env=environment(), stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + PROCESS_SECONDS
    while len(gateway.forms) < 3 and time.monotonic() < deadline:  # one by one, 1 at once, part of 2 at once
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=PROCESS_SECONDS)
    assert process.returncode == 130
    assert "Stopped early" in printed
    report = json.loads(path.read_text())
    assert not report["complete"]
    assert 1 <= len(report["steps"]) < 9


@settings(deadline=None)  # a busy machine is no finding
@given(st.lists(st.floats(allow_nan=False), min_size=1), st.integers(0, 100))
def test_percentile_is_the_smallest_value_that_covers_the_percentage(
    values: list[float], percent: int
) -> None:
    ordered = sorted(values)
    found = script.percentile(ordered, percent)
    covered = sum(value <= found for value in ordered)
    below = sum(value < found for value in ordered)
    assert found in ordered
    assert covered * 100 >= percent * len(ordered)
    assert below == 0 or below * 100 < percent * len(ordered)


@settings(deadline=None)  # a busy machine is no finding
@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_percentile_grows_from_the_smallest_to_the_largest(values: list[float]) -> None:
    ordered = sorted(values)
    found = [script.percentile(ordered, percent) for percent in range(101)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (ordered[0], ordered[-1])


def test_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        script.percentile([], 50)


def test_one_failure_among_many_does_not_round_up_to_all() -> None:
    answers = [script.Answer(1.0)] * 19_999 + [script.Answer(1.0, failure=script.Failure("503 busy"))]
    step = script.Step.of(answers, [1.0])
    assert math.isclose(step.success_percent, 99.9)
