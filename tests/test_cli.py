from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskCliRunner

from backend import cli
from backend.config import load
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
