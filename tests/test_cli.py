from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskCliRunner
from sqlalchemy import select

from backend import cli
from backend.config import load
from backend.models import ActionLog, LoginSession, login_session
from backend.models.base import utc_now
from backend.services.accounts import Accounts
from backend.services.database import Database, attach
from backend.services.passwords import Passwords


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[FlaskCliRunner]:
    """A new gateway whose database has no tables yet."""
    app = Flask("test")
    engine = attach(app, load({}, None, database_url=f"sqlite:///{tmp_path}/gateway.db"))
    database = Database(engine, threads=1)
    passwords = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    app.extensions["gateway"] = SimpleNamespace(database=database, accounts=Accounts(database, passwords))
    cli.register(app)
    yield app.test_cli_runner()
    engine.dispose()


def create(email: str, role: str, *options: str) -> list[str]:
    return ["users", "create", email, "--role", role, *options]


def test_password_from_standard_input_makes_an_account_in_a_new_database(runner: FlaskCliRunner) -> None:
    result = runner.invoke(args=create("A@b.c", "tutor", "--password-stdin"), input="Secret-pass\n")
    assert (result.exit_code, result.output) == (0, "created tutor a@b.c (id 1)\n")


def test_prompt_asks_twice_and_shows_nothing(runner: FlaskCliRunner) -> None:
    result = runner.invoke(args=create("a@b.c", "student"), input="Secret-pass\nSecret-pass\n")
    assert result.exit_code == 0
    assert "created student a@b.c (id 1)" in result.output
    assert "Secret-pass" not in result.output


def test_two_different_passwords_make_no_account(runner: FlaskCliRunner) -> None:
    result = runner.invoke(args=create("a@b.c", "student"), input="Secret-pass\nother-pass\n")
    assert result.exit_code == 1
    assert runner.invoke(args=["users", "list"]).output == ""


@pytest.mark.parametrize(
    ("email", "role", "password", "sentence"),
    [
        ("first@b.c", "student", "Secret-pass", "There is an account for first@b.c already."),
        ("a@b.c", "admin", "Secret-pass", "A role is one of: student, tutor."),
        ("a@b.c", "student", "short", "A password has at least 8 characters."),
        ("a@b.c", "student", "", "A password has at least 8 characters."),
        ("nonsense", "student", "Secret-pass", "An e-mail has the form name@place.example"),
    ],
)
def test_mistake_is_one_line_and_exit_code_1(
    runner: FlaskCliRunner, email: str, role: str, password: str, sentence: str
) -> None:
    runner.invoke(args=create("first@b.c", "student", "--password-stdin"), input="Secret-pass")
    result = runner.invoke(args=create(email, role, "--password-stdin"), input=password)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {sentence}")
    assert result.output.count("\n") == 1


def test_unreachable_database_is_one_line(runner: FlaskCliRunner, tmp_path: Path) -> None:
    (tmp_path / "gateway.db").mkdir()
    result = runner.invoke(args=["users", "list"])
    assert result.exit_code == 1
    assert result.output == "Error: The account store is unavailable. Please try again shortly.\n"


def test_list_shows_every_account_and_no_hash(runner: FlaskCliRunner) -> None:
    for email, role in (("a@b.c", "tutor"), ("d@e.f", "student")):
        runner.invoke(args=create(email, role, "--password-stdin"), input="Secret-pass")
    result = runner.invoke(args=["users", "list"])
    assert result.output == "1\ta@b.c\ttutor\tactive\tnever\n2\td@e.f\tstudent\tactive\tnever\n"


def test_role_is_changed_and_said(runner: FlaskCliRunner) -> None:
    with_people(runner)
    result = runner.invoke(args=["users", "set-role", "Sue@B.C", "tutor"])
    assert (result.exit_code, result.output) == (0, "role of Sue@B.C: student -> tutor\n")
    again = runner.invoke(args=["users", "set-role", "sue@b.c", "tutor"])
    assert again.output == "role of sue@b.c is tutor already\n"


def test_ban_ends_the_sign_in_and_is_lifted_again(runner: FlaskCliRunner) -> None:
    with_people(runner)
    database: Database = runner.app.extensions["gateway"].database
    with database.transaction() as session:
        login_session.begin(session, 2, "0" * 32, utc_now(), 1)
    assert runner.invoke(args=["users", "ban", "sue@b.c"]).output == "status of sue@b.c: active -> banned\n"
    with database.transaction() as session:
        assert session.get_one(LoginSession, 2).jti is None
        log = session.scalars(select(ActionLog)).one()
        assert (log.operator_email, log.role, log.details) == (
            "command line",
            "system",
            {"status": ["active", "banned"]},
        )
    assert runner.invoke(args=["users", "unban", "sue@b.c"]).exit_code == 0
    assert "sue@b.c\tstudent\tactive" in runner.invoke(args=["users", "list"]).output


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y\n", 0, 1), ("n\n", 1, 2), ("", 1, 2)], ids=["yes", "no", "no answer"]
)
def test_deletion_asks_first(runner: FlaskCliRunner, answer: str, code: int, left: int) -> None:
    with_people(runner)
    result = runner.invoke(args=["users", "delete", "sue@b.c"], input=answer)
    assert result.exit_code == code
    assert "Delete sue@b.c (id 2) and everything that is theirs?" in result.output
    assert runner.invoke(args=["users", "list"]).output.count("\n") == left


def test_deletion_without_a_question_keeps_its_reason(runner: FlaskCliRunner) -> None:
    with_people(runner)
    result = runner.invoke(args=["users", "delete", "sue@b.c", "--yes", "--reason", "left school"])
    assert (result.exit_code, result.output) == (0, "deleted sue@b.c (id 2)\n")
    with runner.app.extensions["gateway"].database.transaction() as session:
        assert session.scalars(select(ActionLog.reason)).one() == "left school"


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["set-role", "ann@b.c", "student"], "This is the last active tutor"),
        (["ban", "ann@b.c"], "This is the last active tutor"),
        (["delete", "ann@b.c", "--yes"], "This is the last active tutor"),
        (["set-role", "sue@b.c", "admin"], "A role is one of: student, tutor."),
        (["ban", "nobody@b.c"], "There is no account with that e-mail."),
        (["delete", "nobody@b.c", "--yes"], "There is no account with that e-mail."),
    ],
)
def test_change_that_may_not_be_made_is_one_line(
    runner: FlaskCliRunner, command: list[str], sentence: str
) -> None:
    with_people(runner)
    result = runner.invoke(args=["users", *command])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {sentence}")
    assert result.output.count("\n") == 1


def with_people(runner: FlaskCliRunner) -> None:
    for email, role in (("ann@b.c", "tutor"), ("sue@b.c", "student")):
        made = runner.invoke(args=create(email, role, "--password-stdin"), input="Secret-pass")
        assert made.exit_code == 0
