"""Profiles, conversations, notifications, the audit trail, codes and files; takes over a former database.

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-25
"""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import context, op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

Row = dict[str, Any]

# New tables in the order of their references.
NEW = (
    "user_profile",
    "user_action_log",
    "session",
    "message",
    "notification",
    "verification_code",
    "stored_file",
)


def upgrade() -> None:
    op.add_column("avatar_session", sa.Column("peer_session", sa.BigInteger(), nullable=True))
    _sign_ins()
    _accounts()
    _conversations()
    _further()
    if not context.is_offline_mode():
        _take_over(op.get_bind())


def downgrade() -> None:
    for table in reversed(NEW):
        op.drop_table(table)
    with op.batch_alter_table("avatar_session") as batch:
        batch.drop_column("peer_session")
    op.execute('DELETE FROM login_session WHERE user_id NOT IN (SELECT id FROM "user")')
    with op.batch_alter_table("login_session") as batch:
        batch.drop_column("started_at")
        batch.create_foreign_key(
            op.f("fk_login_session_user_id_user"), "user", ["user_id"], ["id"], ondelete="CASCADE"
        )


def _sign_ins() -> None:
    """A row outlives its user, and says when the sign-in began: for those of before, no later than it ends."""
    with op.batch_alter_table("login_session") as batch:
        batch.add_column(sa.Column("started_at", sa.DateTime(), nullable=True))
        batch.drop_constraint(op.f("fk_login_session_user_id_user"), type_="foreignkey")
    op.execute("UPDATE login_session SET started_at = expires_at")
    with op.batch_alter_table("login_session") as batch:
        batch.alter_column("started_at", existing_type=sa.DateTime(), nullable=False)


def _accounts() -> None:
    op.create_table(
        "user_profile",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("username", sa.String(50), nullable=True),
        sa.Column("full_name", sa.String(50), nullable=True),
        sa.Column("bio", sa.Text(), nullable=True),
        sa.Column("avatar_url", sa.String(200), nullable=True),
        sa.Column("phone", sa.String(20), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("fk_user_profile_user_id_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_profile")),
        sa.UniqueConstraint("user_id", name=op.f("uq_user_profile_user_id")),
    )
    op.create_table(
        "user_action_log",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("operator_email", sa.String(80), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("target_user_id", sa.Integer(), nullable=True),
        sa.Column("target_user_email", sa.String(80), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=True),
        sa.Column("timestamp", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_action_log")),
    )
    op.create_index(op.f("ix_user_action_log_operator_email"), "user_action_log", ["operator_email"])
    op.create_index(op.f("ix_user_action_log_action"), "user_action_log", ["action"])


def _conversations() -> None:
    op.create_table(
        "session",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(120), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.Column("is_favorite", sa.Boolean(), nullable=False),
        sa.Column("message_count", sa.Integer(), nullable=False),
        sa.Column("memory_key", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("fk_session_user_id_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_session")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_session_user_id_updated_at", "session", ["user_id", "updated_at"])
    op.create_table(
        "message",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("content", sa.Text(), nullable=True),
        sa.Column("file_type", sa.String(20), nullable=True),
        sa.Column("file_path", sa.String(200), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["session.id"], name=op.f("fk_message_session_id_session"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_message_session_id"), "message", ["session_id"])


def _further() -> None:
    op.create_table(
        "notification",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(120), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("is_read", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("fk_notification_user_id_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notification")),
    )
    op.create_index("ix_notification_user_id_is_read", "notification", ["user_id", "is_read"])
    op.create_table(
        "verification_code",
        sa.Column("email", sa.String(80), nullable=False),
        sa.Column("purpose", sa.String(20), nullable=False),
        sa.Column("code_hash", sa.String(64), nullable=False),
        sa.Column("sent_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("email", "purpose", name=op.f("pk_verification_code")),
    )
    op.create_index(op.f("ix_verification_code_expires_at"), "verification_code", ["expires_at"])
    op.create_table(
        "stored_file",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("public", sa.Boolean(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("path", sa.String(100), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("in_index", sa.Boolean(), nullable=False),
        sa.Column("problem", sa.String(200), nullable=True),
        sa.Column("session_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stored_file")),
        sa.UniqueConstraint("path", name=op.f("uq_stored_file_path")),
        sqlite_autoincrement=True,
    )
    for name, columns, which in (
        ("uq_stored_file_private_name", ["owner_id", "name"], sa.text("NOT public")),
        ("uq_stored_file_public_name", ["name"], sa.text("public")),
    ):
        op.create_index(
            name, "stored_file", columns, unique=True, sqlite_where=which, postgresql_where=which
        )
    op.create_index("ix_stored_file_owner_id", "stored_file", ["owner_id"])
    op.create_index(op.f("ix_stored_file_due_at"), "stored_file", ["due_at"])


def _take_over(connection: sa.Connection) -> None:
    """Copy what revision 0001 has set aside, then drop it."""
    known = sa.inspect(connection).get_table_names()
    if "former_user" not in known:
        return
    now = datetime.now(UTC).replace(tzinfo=None)
    people = _people(connection, now)
    users = {row["id"] for row in people}
    chats = list(_chats(connection, now, users))
    copies: dict[str, list[Row]] = {
        "user": people,
        "user_profile": list(_profiles(connection, now, users)),
        "user_action_log": list(_actions(connection, now)),
        "session": chats,
        "message": list(_messages(connection, now, {row["id"] for row in chats})),
        "notification": list(_notifications(connection, now, users)),
    }
    for name, rows in copies.items():
        table = sa.Table(name, sa.MetaData(), autoload_with=connection)
        for start in range(0, len(rows), 1000):
            connection.execute(table.insert(), rows[start : start + 1000])
        if connection.dialect.name == "postgresql":
            connection.execute(
                sa.text(
                    f"SELECT setval(pg_get_serial_sequence('\"{name}\"', 'id'), "
                    f"(SELECT coalesce(max(id), 1) FROM \"{name}\"))"
                )
            )
    for name in ("notification", "message", "session", "user_action_log", "user_profile", "user"):
        if f"former_{name}" in known:
            op.drop_table(f"former_{name}")


def _former(connection: sa.Connection, name: str) -> Iterator[Row]:
    """Yield the rows of a former table, oldest first; none when it was never made."""
    if not sa.inspect(connection).has_table(f"former_{name}"):
        return
    table = sa.Table(f"former_{name}", sa.MetaData(), autoload_with=connection)
    for row in connection.execute(sa.select(table).order_by(table.c.id)).mappings().all():
        yield dict(row)


def _people(connection: sa.Connection, now: datetime) -> list[Row]:
    """E-mails now have one spelling; of several accounts under it, the one that was used last keeps it."""
    former = list(_former(connection, "user"))
    former.sort(key=lambda row: (row.get("last_login") or datetime.min, row["id"]), reverse=True)
    taken: set[str] = set()
    people = []
    for row in former:
        email = str(row["email"]).strip().casefold()
        if email in taken:
            local, _, place = email.partition("@")
            email = f"{local}+{row['id']}@{place}"
        taken.add(email)
        people.append(
            {
                "id": row["id"],
                "email": email,
                "password_hash": row["password_hash"] or "",
                "role": row["role"] if row["role"] in ("student", "tutor") else "student",
                "status": row["status"] if row["status"] in ("active", "inactive", "banned") else "active",
                "created_at": row.get("created_at") or now,
                "changed_at": now,
                "last_login": row.get("last_login"),
            }
        )
    return sorted(people, key=lambda row: int(row["id"]))


def _profiles(connection: sa.Connection, now: datetime, users: set[int]) -> Iterator[Row]:
    fields = ("id", "user_id", "username", "full_name", "bio", "phone")
    for row in _former(connection, "user_profile"):
        if row["user_id"] in users:
            # Pictures lay in a folder of the former program.
            yield {field: row.get(field) for field in fields} | {
                "avatar_url": None,
                "created_at": row.get("created_at") or now,
                "updated_at": row.get("updated_at") or now,
            }


def _actions(connection: sa.Connection, now: datetime) -> Iterator[Row]:
    for row in _former(connection, "user_action_log"):
        yield {
            "id": row["id"],
            "operator_email": row["operator_email"] or "",
            "role": row.get("role") or "",
            "action": row["action"] or "",
            "target_user_id": row.get("target_user_id"),
            "target_user_email": row.get("target_user_email"),
            "reason": row.get("reason"),
            "details": row.get("details"),
            "timestamp": row.get("timestamp") or now,
        }


def _chats(connection: sa.Connection, now: datetime, users: set[int]) -> Iterator[Row]:
    for row in _former(connection, "session"):
        if row["user_id"] in users:
            created = row.get("created_at") or now
            yield {
                "id": row["id"],
                "user_id": row["user_id"],
                "title": row.get("title"),
                "created_at": created,
                "updated_at": row.get("updated_at") or created,
                "is_favorite": bool(row.get("is_favorite")),
                "message_count": row.get("message_count") or 0,
                "memory_key": uuid.uuid4().hex,
            }


def _messages(connection: sa.Connection, now: datetime, chats: set[int]) -> Iterator[Row]:
    fields = ("id", "session_id", "content", "file_type", "file_path")
    for row in _former(connection, "message"):
        if row["session_id"] in chats:
            yield {field: row.get(field) for field in fields} | {
                "role": row["role"] or "assistant",
                "created_at": row.get("created_at") or now,
            }


def _notifications(connection: sa.Connection, now: datetime, users: set[int]) -> Iterator[Row]:
    for row in _former(connection, "notification"):
        if row["user_id"] in users:
            yield {
                "id": row["id"],
                "user_id": row["user_id"],
                "title": row["title"] or "",
                "message": row["message"] or "",
                "type": row.get("type") or "info",
                "is_read": bool(row.get("is_read")),
                "created_at": row.get("created_at") or now,
            }
