"""Daily counts of subscriptions by push service, for the dashboard.

Expand only: the code before it works with it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "push_daily_counts",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("push_service", sa.Text(), nullable=False),
        sa.Column("subscriptions", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "push_service"),
    )


def downgrade() -> None:
    op.drop_table("push_daily_counts")
