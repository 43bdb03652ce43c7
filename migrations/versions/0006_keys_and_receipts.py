"""The VAPID key of each subscription.

Expand only: the code before it works with it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '900ms'")  # fail, instead of blocking others behind a long lock
    op.add_column("push_subscriptions", sa.Column("vapid_key", sa.String(87)))


def downgrade() -> None:
    op.drop_column("push_subscriptions", "vapid_key")
