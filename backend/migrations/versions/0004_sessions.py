"""Every connection at an avatar instance has a row of its own; leases, and the line for places.

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-25
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.rename_table("avatar_session", "former_avatar_session")
    op.create_table(
        "lease",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("holder", sa.String(32), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "avatar_ticket",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_avatar_ticket")),
        sa.UniqueConstraint("user_id", name=op.f("uq_avatar_ticket_user_id")),
        sqlite_autoincrement=True,
    )
    if op.get_bind().dialect.name == "postgresql":
        # The new table wants the name of its key.
        op.execute("ALTER TABLE former_avatar_session RENAME CONSTRAINT pk_avatar_session TO pk_former")
    _sessions()
    now = f"'{datetime.now(UTC).replace(tzinfo=None):%Y-%m-%d %H:%M:%S.%f}'"
    op.execute(
        "INSERT INTO avatar_session (user_id, avatar, instance_id, port, state, wanted, counted, peer_session,"
        " started_at, used_at, kept_at)"
        " SELECT user_id, avatar, instance_id, port, 'ready', true, true, peer_session, started_at,"
        f" {now}, started_at FROM former_avatar_session"
    )
    op.drop_table("former_avatar_session")


def _sessions() -> None:
    op.create_table(
        "avatar_session",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("avatar", sa.String(64), nullable=False),
        sa.Column("instance_id", sa.String(160), nullable=True),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("wanted", sa.Boolean(), nullable=False),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.Column("holder", sa.String(32), nullable=True),
        sa.Column("due_at", sa.DateTime(), nullable=True),
        sa.Column("peer_session", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("used_at", sa.DateTime(), nullable=False),
        sa.Column("kept_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_avatar_session")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_avatar_session_user_id", "avatar_session", ["user_id"])
    for state in ("starting", "ready"):
        which = sa.text(f"state = '{state}'")
        op.create_index(
            f"uq_avatar_session_{state}",
            "avatar_session",
            ["user_id"],
            unique=True,
            sqlite_where=which,
            postgresql_where=which,
        )


def downgrade() -> None:
    op.drop_table("avatar_ticket")
    op.drop_table("lease")
    op.rename_table("avatar_session", "later_avatar_session")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE later_avatar_session RENAME CONSTRAINT pk_avatar_session TO pk_later")
    op.create_table(
        "avatar_session",
        sa.Column("user_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("avatar", sa.String(64), nullable=False),
        sa.Column("instance_id", sa.String(160), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("peer_session", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("fk_avatar_session_user_id_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_avatar_session")),
    )
    op.execute(
        "INSERT INTO avatar_session (user_id, avatar, instance_id, port, started_at, peer_session)"
        " SELECT user_id, avatar, instance_id, port, started_at, peer_session FROM later_avatar_session"
        " WHERE state = 'ready' AND user_id IN (SELECT id FROM \"user\")"
    )
    op.drop_table("later_avatar_session")
