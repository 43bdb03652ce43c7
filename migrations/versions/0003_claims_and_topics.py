"""Claims of batches, topics, scheduled and cancelled messages, and longer names of outcomes.

Expand only: the code before it works with it.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEX = "ix_push_messages_topic_user_id_id"
TIME = sa.DateTime(timezone=True)
COLUMNS: dict[str, dict[str, sa.types.TypeEngine[Any]]] = {
    "push_messages": {"topic": sa.String(32), "send_at": TIME, "cancelled_at": TIME},
    "push_batches": {"claimed_by": sa.BigInteger(), "claimed_at": TIME},
}


def upgrade() -> None:
    is_postgresql = op.get_context().dialect.name == "postgresql"
    if is_postgresql:
        op.execute("SET LOCAL lock_timeout = '900ms'")  # fail, instead of blocking others behind a long lock
    for table, columns in COLUMNS.items():
        for name, column_type in columns.items():
            op.add_column(table, sa.Column(name, column_type))
    change_length_of_outcome(8, 16)
    if is_postgresql:
        with op.get_context().autocommit_block():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")  # of an interrupted run
            op.execute(
                f"CREATE INDEX CONCURRENTLY {INDEX} ON push_messages (topic, user_id, id)"
                " WHERE topic IS NOT NULL"
            )
    else:
        op.create_index(
            INDEX, "push_messages", ["topic", "user_id", "id"], sqlite_where=sa.text("topic IS NOT NULL")
        )


def downgrade() -> None:
    op.drop_index(INDEX, "push_messages")
    op.execute("DELETE FROM push_outcomes WHERE length(outcome) > 8")
    change_length_of_outcome(16, 8)
    for table, columns in COLUMNS.items():
        for name in reversed(columns):
            op.drop_column(table, name)


def change_length_of_outcome(before: int, after: int) -> None:
    # SQLite copies the table. Given here, since without a database (`--sql`) it cannot be read.
    outcomes = sa.Table(
        "push_outcomes",
        sa.MetaData(),
        sa.Column("message_id", sa.Integer(), sa.ForeignKey("push_messages.id", ondelete="CASCADE")),
        sa.Column("push_service", sa.Text()),
        sa.Column("outcome", sa.String(before)),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", "push_service", "outcome"),
    )
    with op.batch_alter_table("push_outcomes", copy_from=outcomes) as table:
        table.alter_column(
            "outcome", existing_type=sa.String(before), existing_nullable=False, type_=sa.String(after)
        )
