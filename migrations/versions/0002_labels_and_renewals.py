"""Labels, the time of the last message, and renewals of subscriptions.

Expand only: the code before it works with it.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEX = "ix_push_subscriptions_renewed_from"
COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "label": sa.String(100),
    "last_sent_at": sa.DateTime(timezone=True),
    "renewed_from": sa.LargeBinary(32),
}


def upgrade() -> None:
    is_postgresql = op.get_context().dialect.name == "postgresql"
    if is_postgresql:
        op.execute("SET LOCAL lock_timeout = '900ms'")  # fail, instead of blocking others behind a long lock
    for name, column_type in COLUMNS.items():
        op.add_column("push_subscriptions", sa.Column(name, column_type))
    if is_postgresql:
        with op.get_context().autocommit_block():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")  # of an interrupted run
            op.execute(
                f"CREATE INDEX CONCURRENTLY {INDEX} ON push_subscriptions USING hash (renewed_from)"
                " WHERE renewed_from IS NOT NULL"
            )
            # Without statistics of the new column, queries of browsers would scan the table.
            op.execute("ANALYZE push_subscriptions (renewed_from)")
    else:
        op.create_index(
            INDEX,
            "push_subscriptions",
            ["renewed_from"],
            sqlite_where=sa.text("renewed_from IS NOT NULL"),
        )


def downgrade() -> None:
    op.drop_index(INDEX, "push_subscriptions")
    for name in reversed(COLUMNS):
        op.drop_column("push_subscriptions", name)
