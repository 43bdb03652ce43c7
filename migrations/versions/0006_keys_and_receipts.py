"""The VAPID key of each subscription; receipts, and their counts.

Expand only: the code before it works with it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _id(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), autoincrement=False, nullable=False)


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '900ms'")  # fail, instead of blocking others behind a long lock
    op.add_column("push_subscriptions", sa.Column("vapid_key", sa.String(87)))
    op.create_table(
        "push_receipts",
        _id("message_id"),
        _id("subscription_id"),
        sa.Column("event", sa.String(8), nullable=False),
        sa.PrimaryKeyConstraint("message_id", "subscription_id", "event"),
    )
    op.create_index("ix_push_receipts_subscription_id", "push_receipts", ["subscription_id"])
    op.create_table(
        "push_receipt_counts",
        _id("message_id"),
        sa.Column("event", sa.String(8), nullable=False),
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", "event", "shard"),
    )


def downgrade() -> None:
    op.drop_table("push_receipt_counts")
    op.drop_table("push_receipts")
    op.drop_column("push_subscriptions", "vapid_key")
