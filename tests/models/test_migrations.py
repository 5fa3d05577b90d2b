import logging
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from flask import Flask
from sqlalchemy import Engine, String, event, inspect, select, text
from sqlalchemy.orm import Session

from backend.models import AvatarSession, Base, LoginSession, User
from backend.services.database import migrating, upgrade
from tests.support.stores import bound

ROOT = Path(__file__).parents[2]
UPGRADE = """
import sys
from pathlib import Path
from flask import Flask
from backend.config import load
from backend.services.database import attach, upgrade
app = Flask("worker")
engine = attach(app, load({}, None, database_url=sys.argv[1]))
sys.stdin.readline()
upgrade(app)
engine.dispose()
"""


def test_migrated_tables_are_those_of_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrade_of_an_up_to_date_database_changes_nothing(app: Flask) -> None:
    statements: list[str] = []
    event.listen(bound(app), "before_cursor_execute", lambda *args: statements.append(args[2]))
    upgrade(app)
    assert all(statement.lstrip().upper().startswith(("SELECT", "PRAGMA")) for statement in statements)
    assert not any("pg_advisory" in statement for statement in statements)


def test_upgrade_works_from_any_working_directory(
    empty_app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    upgrade(empty_app)
    assert inspect(bound(empty_app)).has_table("login_session")


def test_upgrade_leaves_logging_alone(empty_app: Flask) -> None:
    root, other = logging.getLogger(), logging.getLogger("somebody.else")
    before = (root.level, list(root.handlers), other.disabled)
    upgrade(empty_app)
    assert (root.level, list(root.handlers), other.disabled) == before


def test_flask_db_commands_migrate_down_and_up(app: Flask) -> None:
    runner = app.test_cli_runner()
    for command, exists in (("downgrade", False), ("upgrade", True), ("check", True)):
        args = ["db", command] + (["base"] if command == "downgrade" else [])
        result = runner.invoke(args=args)
        assert result.exit_code == 0, result.output
        assert inspect(bound(app)).has_table("user") is exists


def test_two_processes_that_start_together_both_find_the_database_upgraded(
    empty_app: Flask, database_url: str
) -> None:
    command = [sys.executable, "-W", "error", "-c", UPGRADE, database_url]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True)
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        _, errors = worker.communicate(timeout=60)
        assert worker.returncode == 0, errors
    assert inspect(bound(empty_app)).has_table("login_session")


def test_migration_that_fails_leaves_nothing_behind(empty_app: Flask) -> None:
    engine = bound(empty_app)

    def fail() -> None:
        with migrating(engine) as connection:
            connection.execute(text("CREATE TABLE half_done (id INTEGER)"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not inspect(engine).has_table("half_done")


def test_rebuilding_a_table_keeps_the_rows_that_point_to_it(engine: Engine) -> None:
    with Session(engine) as session:
        user = User(email="a@b.co", password_hash="x")
        session.add(user)
        session.flush()
        session.add(
            LoginSession(
                user_id=user.id,
                jti="j",
                started_at=datetime.now(UTC),
                expires_at=datetime.now(UTC),
                changed_at=1,
            )
        )
        session.commit()
    with migrating(engine) as connection:
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("user") as batch:
            batch.alter_column("role", type_=String(40))
    with Session(engine) as session:
        assert session.scalars(select(LoginSession.jti)).all() == ["j"]
        assert session.scalars(select(User.email)).all() == ["a@b.co"]


def test_long_waits_of_a_migration_do_not_stay_on_pooled_connections(app: Flask) -> None:
    engine = bound(app)
    with migrating(engine):
        pass
    question, answer = {
        "sqlite": ("PRAGMA foreign_keys", 1),
        "postgresql": ("SHOW statement_timeout", "15s"),
    }[engine.dialect.name]
    with engine.connect() as connection:
        assert connection.execute(text(question)).scalar_one() == answer


def test_users_keep_their_avatars_through_the_new_table_of_sessions_and_back(app: Flask) -> None:
    runner, engine = app.test_cli_runner(), bound(app)
    assert runner.invoke(args=["db", "downgrade", "0003"]).exit_code == 0
    people = (
        'INSERT INTO "user" (id, email, password_hash, role, status, created_at, changed_at)'
        " VALUES (:user, :email, 'x', 'student', 'active', :now, :now)"
    )
    seats = (
        "INSERT INTO avatar_session (user_id, avatar, instance_id, port, peer_session, started_at)"
        " VALUES (:user, 'Ada', 'Ada_user_1', 8615, :peer, :now)"
    )
    with engine.begin() as connection:
        for user in (1, 2):
            known = {"user": user, "now": "2026-11-25 12:00:00.000000"}
            connection.execute(text(people), known | {"email": f"{user}@b.co"})
            connection.execute(text(seats), known | {"peer": 123450 + user})
    assert runner.invoke(args=["db", "upgrade"]).exit_code == 0
    with Session(engine) as session:
        kept = session.scalars(select(AvatarSession).order_by(AvatarSession.user_id)).all()
        assert [(row.user_id, row.state, row.port, row.peer_session) for row in kept] == [
            (1, "ready", 8615, 123451),
            (2, "ready", 8615, 123452),
        ]
        assert all(row.wanted and row.counted and row.used_at > row.started_at for row in kept)
        kept[1].state = "leaving"
        session.commit()
    assert runner.invoke(args=["db", "downgrade", "0003"]).exit_code == 0
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT user_id, port, peer_session FROM avatar_session")).all()
        assert [tuple(row) for row in rows] == [(1, 8615, 123451)]
    assert runner.invoke(args=["db", "upgrade"]).exit_code == 0
