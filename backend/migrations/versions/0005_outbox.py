"""A code keeps what its mail needs until that is sent, for whoever comes after a process that died.

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-25
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("verification_code", sa.Column("seed", sa.String(32), nullable=True))
    op.add_column("verification_code", sa.Column("held_until", sa.DateTime(), nullable=True))
    op.create_index(op.f("ix_verification_code_held_until"), "verification_code", ["held_until"])


def downgrade() -> None:
    op.drop_index(op.f("ix_verification_code_held_until"), "verification_code")
    with op.batch_alter_table("verification_code") as batch:
        batch.drop_column("held_until")
        batch.drop_column("seed")
