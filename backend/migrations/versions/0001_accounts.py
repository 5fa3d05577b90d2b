"""Accounts and their sign-ins.

Revision ID: 0001
Revises:
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# Tables of the backend that came before this gateway; revision 0003 takes over what is in them. Its
# `safeguard` was written by another program and stays as it is.
FORMER = ("notification", "message", "session", "user_action_log", "user_profile", "user")


def upgrade() -> None:
    if not context.is_offline_mode():
        known = sa.inspect(op.get_bind()).get_table_names()
        for table in FORMER:
            if table in known:
                op.rename_table(table, f"former_{table}")
    op.create_table(
        "user",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("email", sa.String(80), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.Column("last_login", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user")),
        sa.UniqueConstraint("email", name=op.f("uq_user_email")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_user_changed_at"), "user", ["changed_at"])
    op.create_table(
        "login_session",
        sa.Column("user_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("jti", sa.String(32), nullable=True),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("fk_login_session_user_id_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_login_session")),
    )
    op.create_index(op.f("ix_login_session_changed_at"), "login_session", ["changed_at"])


def downgrade() -> None:
    op.drop_table("login_session")
    op.drop_table("user")
