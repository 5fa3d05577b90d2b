"""The load script as people start it, against a scripted gateway on a real socket."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from performance import machine
from performance.run import main
from tests.support.scripted_gateway import (
    PASSWORD,
    PREVIEW_SECONDS,
    TOKEN,
    ScriptedGateway,
    message,
    scripted_gateway,
)

SCRIPT = Path(__file__).resolve().parents[1] / "test_async_performance.py"
PROCESS_SECONDS = 30.0


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with scripted_gateway() as scripted:
        yield scripted


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
    assert main(arguments(gateway, "--json", path)) == 0
    report = json.loads(path.read_text())
    assert (report["tool"], report["version"], report["base_url"]) == (
        "test_async_performance",
        1,
        gateway.url,
    )
    assert report["call"] == "POST /api/avatar/preview"
    assert report["when"].endswith("+00:00")
    known = {"python", "platform", "cpus", "processor", "kernel", "pyreqwest", "load"}
    assert set(report["machine"]) == known
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
    assert main(arguments(gateway, "--markdown", path)) == 0
    rows = [line for line in path.read_text().splitlines() if line.startswith("|")]
    assert rows[0].split(" | ")[:2] == ["| users", "wall s"]
    assert [row.split()[1] for row in rows[2:]] == ["1", "5"]


def test_plot_is_an_svg_even_when_a_whole_step_failed(gateway: ScriptedGateway, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    gateway.fails_from = 3
    path = tmp_path / "run.svg"
    assert main(arguments(gateway, "--plot", path)) == 1
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
    assert main(arguments(gateway, "--json", tmp_path / "run.json")) == 1
    assert "5 at once: 5 x 503 all [red]avatars busy *** (request id req-" in capsys.readouterr().out
    step = json.loads((tmp_path / "run.json").read_text())["steps"][1]
    assert (step["failed"], step["success_percent"], step["p50_seconds"], step["speed_up"]) == (5, 0, None, 0)
    assert step["failures"][0]["count"] == 5


def test_body_that_ends_early_is_a_failure(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.cuts_previews = True
    assert main(arguments(gateway)) == 1
    assert "end of file before message length reached" in capsys.readouterr().out


def test_ladder_is_not_climbed_when_no_single_call_succeeds(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.fails_from = 1
    assert main(arguments(gateway)) == 1
    assert len(gateway.forms) == 1
    assert "the ladder was not started" in capsys.readouterr().out


def test_call_over_its_timeout_is_a_failure(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(gateway, "--timeout", "0.1")) == 1
    assert "Timeout" in capsys.readouterr().out


def test_step_over_the_limit_fails_the_run(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(gateway, "--limit-seconds", "0.1")) == 1
    assert "is over the limit of 0.1 s" in capsys.readouterr().out
    assert main(arguments(gateway, "--limit-seconds", "5")) == 0


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
    assert main(arguments(gateway)) == 2
    assert "504 avatar service timeout (request id r-1)" in capsys.readouterr().err
    assert gateway.forms == []


def test_endpoint_the_ladder_does_not_need_may_fail(gateway: ScriptedGateway) -> None:
    gateway.replies["/api/tts/models"] = 404, b"<html>"
    assert main(arguments(gateway)) == 0


def test_empty_avatar_list_asks_for_a_name(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.replies["/api/avatar/list"] = 200, b"{}"
    assert main(arguments(gateway)) == 2
    assert "--avatar" in capsys.readouterr().err


def test_any_path_can_be_measured(gateway: ScriptedGateway) -> None:
    gateway.replies["/api/slow"] = 200, b"{}"
    assert main(arguments(gateway, "--path", "/api/slow", "--method", "post")) == 0
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
        assert main(arguments(gateway, "--json", path)) == 2
        assert f"cannot write {path}" in capsys.readouterr().err
    assert gateway.paths == []


def test_ladder_that_would_fill_the_memory_is_refused(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--base-url", gateway.url, "--users", "20000,20000", "--rounds", "100"]) == 2
    assert "more than 2,000,000 calls" in capsys.readouterr().err
    assert gateway.paths == []


def test_file_limit_too_low_for_the_users_is_said_before_any_load(
    gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (256, 256))
    monkeypatch.setattr(machine.resource, "setrlimit", lambda *_: None)
    assert main(["--base-url", gateway.url, "--users", "1000"]) == 2
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
        main(wrong)
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
