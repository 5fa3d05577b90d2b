"""Users who come, think and go on: what they send, how they stop, and what is counted."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from performance.run import main
from tests.support.gateway import ROOT
from tests.support.scripted_gateway import TOKEN, ScriptedGateway, message

SECONDS = 40.0
CHAT = {
    "think": 0,
    "steps": [
        {
            "name": "new",
            "method": "POST",
            "path": "/new",
            "json": {"title": "t {user}"},
            "keep": {"chat": "in.id"},
        },
        {"name": "say", "method": "POST", "path": "/say", "json": {"chat": "{chat}", "said": "to {chat}"}},
        {
            "name": "send",
            "method": "POST",
            "path": "/send",
            "form": {"chat": "{chat}"},
            "file": {"name": "a.txt"},
        },
        {"name": "drop", "method": "DELETE", "path": "/chat/{chat}", "closing": True},
    ],
}


def scenario(folder: Path, content: Any) -> str:
    path = folder / "mine.json"
    path.write_text(json.dumps(content))
    return str(path)


def run(gateway: ScriptedGateway, folder: Path, *argv: str, code: int = 0) -> dict[str, Any]:
    """Run the script and return its report."""
    path = folder / "run.json"
    assert main(["--base-url", gateway.url, "--quiet", "--json", str(path), *argv]) == code
    return dict(json.loads(path.read_text()))


def sent(gateway: ScriptedGateway, path: str) -> list[bytes]:
    return [body for _, asked, _, body in gateway.requests if asked == path]


def test_answers_fill_what_later_calls_send(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.replies["/new"] = 201, message(**{"in": {"id": "a/b"}})
    report = run(gateway, tmp_path, "--scenario", scenario(tmp_path, CHAT), "--users", "1", "--calls", "4")
    assert json.loads(sent(gateway, "/new")[0]) == {"title": "t 1"}
    assert json.loads(sent(gateway, "/say")[0]) == {"chat": "a/b", "said": "to a/b"}
    assert ("DELETE", "/chat/a%2Fb") in [(method, path) for method, path, _, _ in gateway.requests]
    upload = sent(gateway, "/send")[0]
    assert b'name="chat"' in upload
    assert b'filename="a.txt"' in upload
    crowd = report["crowds"][0]
    assert [(act["name"], act["calls"]) for act in crowd["acts"]] == [
        ("new", 1),
        ("say", 1),
        ("send", 1),
        ("drop", 1),
    ]
    assert (crowd["all"]["calls"], crowd["all"]["failed"], report["complete"]) == (4, 0, True)


def test_number_in_an_answer_stays_a_number(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.replies["/new"] = 200, message(**{"in": {"id": 7}})
    run(gateway, tmp_path, "--scenario", scenario(tmp_path, CHAT), "--users", "1", "--calls", "2")
    assert json.loads(sent(gateway, "/say")[0]) == {"chat": 7, "said": "to 7"}


def test_what_needs_an_answer_that_never_came_is_left_out(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.replies["/new"] = 500, message(msg="no")
    argv = ("--scenario", scenario(tmp_path, CHAT), "--users", "1", "--calls", "3")
    crowd = run(gateway, tmp_path, *argv, code=1)["crowds"][0]
    assert (crowd["all"]["failed"], sent(gateway, "/say")) == (3, [])
    assert crowd["all"]["skipped"] >= 4
    assert crowd["acts"][0]["failures"] == [{"kind": "500 no", "request_id": "", "count": 3}]


@pytest.mark.parametrize("users", ["1", "7"])
def test_no_more_calls_are_made_than_were_asked_for(
    gateway: ScriptedGateway, tmp_path: Path, users: str
) -> None:
    report = run(gateway, tmp_path, "--path", "/api/slow", "--users", users, "--calls", "50")
    assert gateway.paths.count("/api/slow") == 50
    everything = report["crowds"][0]["all"]
    assert (everything["calls"], everything["succeeded"]) == (50, 50)
    assert sum(report["crowds"][0]["over_time"][0]["answered"]) == 50


def test_time_ends_a_crowd_and_calls_in_flight_are_counted(gateway: ScriptedGateway, tmp_path: Path) -> None:
    report = run(gateway, tmp_path, "--duration", "1", "--users", "5")
    everything = report["crowds"][0]["all"]
    assert everything["calls"] == len(gateway.forms) >= 5
    assert everything["p50_seconds"] >= gateway.latency
    assert report["crowds"][0]["unfinished"] == 0
    assert report["crowds"][0]["seconds"][0] >= 1


def test_what_tidies_up_is_done_when_the_time_is_over(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.replies["/new"] = 200, message(**{"in": {"id": 1}})
    steps = [CHAT["steps"][0], {"path": "/api/avatar/preview", "method": "POST"}, CHAT["steps"][3]]  # type: ignore[index]
    gateway.latency = 1.0
    file = scenario(tmp_path, {"steps": steps})
    run(gateway, tmp_path, "--scenario", file, "--users", "2", "--duration", "0.5")
    assert gateway.paths.count("/chat/1") == gateway.paths.count("/new") == 2


def test_warm_up_is_not_counted(gateway: ScriptedGateway, tmp_path: Path) -> None:
    argv = ("--path", "/x", "--users", "2", "--calls", "10", "--warm-up", "0.3")
    report = run(gateway, tmp_path, *argv)
    assert report["crowds"][0]["all"]["calls"] == 10
    assert gateway.paths.count("/x") > 10


def test_call_that_is_told_to_wait_waits_and_comes_again(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.limited["/x"] = 1
    report = run(gateway, tmp_path, "--path", "/x", "--users", "1", "--calls", "5", "--duration", "30")
    everything = report["crowds"][0]["all"]
    assert (everything["limited"], everything["failed"]) == (1, 0)
    assert everything["max_seconds"] < 1  # the wait is the limit's, not the answer's


def test_users_with_accounts_of_their_own_sign_in_each(gateway: ScriptedGateway, tmp_path: Path) -> None:
    accounts = tmp_path / "accounts.txt"
    accounts.write_text("# ours\na@x Demo-pass1!\nb@x Demo-pass1!\n")
    argv = (
        "--accounts",
        str(accounts),
        "--scenario",
        "look",
        "--think",
        "0",
        "--users",
        "2",
        "--calls",
        "14",
    )
    report = run(gateway, tmp_path, *argv)
    emails = [json.loads(body)["email"] for body in sent(gateway, "/api/login")]
    assert sorted(emails) == ["a@x", "a@x", "b@x"]  # the checks were made by the first
    assert report["scenario"]["own_accounts"]
    assert "Demo-pass1!" not in (tmp_path / "run.json").read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a@x\n", "line 1: expected an e-mail, a space and a password"),
        ("", "has 0 accounts"),
        (None, "cannot read"),
    ],
)
def test_accounts_that_do_not_do_are_refused(
    gateway: ScriptedGateway,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    said: str,
) -> None:
    path = tmp_path / "accounts.txt"
    if content is not None:
        path.write_text(content)
    assert main(["--base-url", gateway.url, "--scenario", "look", "--accounts", str(path)]) == 2
    assert said in capsys.readouterr().err
    assert gateway.paths == []


def test_fewer_accounts_than_users_are_refused(
    gateway: ScriptedGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "accounts.txt"
    path.write_text("a@x secret-word\n")
    argv = ["--base-url", gateway.url, "--scenario", "look", "--accounts", str(path), "--users", "2"]
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert "has 1 accounts for 2 users" in told
    assert "secret-word" not in told


def test_same_seed_makes_the_same_users(tmp_path: Path, gateway: ScriptedGateway) -> None:
    def paths(seed: str) -> list[str]:
        gateway.paths.clear()
        argv = ("--scenario", "mixed", "--think", "0", "--users", "1", "--calls", "60", "--seed", seed)
        run(gateway, tmp_path, *argv, code=0)
        return sorted(gateway.paths)  # calls that are made together arrive in any order

    gateway.replies["/api/chat/new"] = 201, message(session_id=1)
    gateway.latency = 0.0
    assert paths("1") == paths("1")
    assert paths("1") != paths("2")


def test_scenario_without_anything_to_do_ends(gateway: ScriptedGateway, tmp_path: Path) -> None:
    file = scenario(tmp_path, {"steps": [{"path": "/x", "own_account": True}]})
    assert main(["--base-url", gateway.url, "--scenario", file, "--users", "2", "--duration", "60"]) == 0
    assert "/x" not in gateway.paths


def test_limit_holds_for_the_p95_of_each_call(
    gateway: ScriptedGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--base-url", gateway.url, "--calls", "3", "--users", "1", "--limit-seconds", "0.1"]
    assert main(argv) == 1
    assert "over the limit of 0.1 s" in capsys.readouterr().out


def test_ctrl_c_reports_the_calls_until_then(gateway: ScriptedGateway, tmp_path: Path) -> None:
    path, page = tmp_path / "run.json", tmp_path / "run.html"
    argv = [
        "--base-url",
        gateway.url,
        "--users",
        "3",
        "--duration",
        "300",
        "--json",
        str(path),
        "--html",
        str(page),
    ]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "test_async_performance.py"), *argv], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + SECONDS
    while len(gateway.forms) < 9 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert "Stopped early" in printed
    report = json.loads(path.read_text())
    assert not report["complete"]
    assert report["crowds"][0]["all"]["calls"] >= 3
    assert "Stopped early" in page.read_text()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--think", "1-5"],
        ["--accounts", "x"],
        ["--ramp-up", "1"],
        ["--scenario", "look", "--path", "/x"],
        ["--scenario", "look", "--claims"],
        ["--claims", "--path", "/x"],
        ["--scenario", "look", "--think", "5-1"],
        ["--duration", "0"],
        ["--calls", "0"],
        ["--seed", "-1"],
        ["--rounds", "0"],
        ["--anyway"],
        ["--compare", "one.json"],
    ],
)
def test_options_that_do_not_go_together_exit_with_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*wrong, "--token", TOKEN])
    assert stopped.value.code == 2
