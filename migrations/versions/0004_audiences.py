"""Channels and their members, audiences of messages, and what an idempotency key was used for.

Expand only: the code before it works with it.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEX = "ix_push_channel_members_user_id"
COLUMNS: dict[str, dict[str, sa.types.TypeEngine[Any]]] = {
    "push_messages": {"audience": sa.JSON(none_as_null=True), "content_hash": sa.LargeBinary(32)},
    "push_batches": {"after_user_id": sa.String(255)},
}


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '900ms'")  # fail, instead of blocking others behind a long lock
    op.create_table(
        "push_channel_members",
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("channel", "user_id"),
    )
    op.create_index(INDEX, "push_channel_members", ["user_id"])
    for table, columns in COLUMNS.items():
        for name, column_type in columns.items():
            op.add_column(table, sa.Column(name, column_type))


def downgrade() -> None:
    for table, columns in COLUMNS.items():
        for name in reversed(columns):
            op.drop_column(table, name)
    op.drop_table("push_channel_members")
