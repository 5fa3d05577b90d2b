"""Which avatar instance each user is on.

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "avatar_session",
        sa.Column("user_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("avatar", sa.String(64), nullable=False),
        sa.Column("instance_id", sa.String(160), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("fk_avatar_session_user_id_user"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_avatar_session")),
    )


def downgrade() -> None:
    op.drop_table("avatar_session")
