"""The commands that people run when something is wrong, as they run them."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.support.gateway import KEY, ROOT, clean_environment
from tests.support.ports import free_port


def flask(folder: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run `flask --app run:flask_app …` with these settings and none of the developer's."""
    around = {"JWT_SECRET_KEY": KEY, "GATEWAY_INSTANCE_DIR": str(folder), "COLUMNS": "200", **settings}
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", f"{ROOT / 'run.py'}:flask_app", *arguments],
        cwd=folder,
        env=clean_environment(PYTHONPATH=str(ROOT), **around),
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )


def test_doctor_ends_with_an_error_and_the_remedy_when_services_are_not_there(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    told = flask(tmp_path, "doctor", PORT=str(free_port()), AVATAR_MANAGER_URL=nowhere)
    assert told.returncode == 1, told.stderr
    assert re.search(r"manager +FAULT", told.stdout)
    assert "correct AVATAR_MANAGER_URL" in told.stdout


def test_doctor_tells_programs_in_json(tmp_path: Path) -> None:
    told = flask(tmp_path, "doctor", "--json", PORT=str(free_port()))
    rows = {row["what"]: row for row in json.loads(told.stdout)}
    assert rows["port"]["state"] == "ok"
    assert set(rows["port"]) == {"what", "state", "told", "remedy"}


def test_wrong_settings_are_told_in_words_and_not_by_a_traceback(tmp_path: Path) -> None:
    told = flask(tmp_path, "doctor", PORT="many", GATEWAY_NONSENSE="1")
    assert told.returncode != 0
    assert "PORT:" in told.stderr
    assert "GATEWAY_NONSENSE: unknown setting" in told.stderr
    assert "Traceback" not in told.stderr


def test_settings_are_shown_with_where_they_come_from_and_without_secrets(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WORKERS=3\nSMTP_URL=smtp://me:very-secret@mail.example\n")
    told = flask(tmp_path, "config", "show", "--diff", SLOW_REQUEST_SECONDS="2")
    assert told.returncode == 0, told.stderr
    assert re.search(r"WORKERS +3 +\.env +1", told.stdout)
    assert re.search(r"SLOW_REQUEST_SECONDS +2\.0 +environment +1\.0", told.stdout)
    assert re.search(r"SMTP_URL +\(secret\)", told.stdout)
    assert "very-secret" not in told.stdout + told.stderr
    assert KEY not in told.stdout


def test_selftest_sees_ten_users_of_a_slow_call_answered_together(tmp_path: Path) -> None:
    told = flask(tmp_path, "selftest")
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count("ok") >= 4
    assert "all answered after" in told.stdout


def test_routes_are_listed(tmp_path: Path) -> None:
    told = flask(tmp_path, "routes")
    assert told.returncode == 0, told.stderr
    assert "/api/avatar/list" in told.stdout
