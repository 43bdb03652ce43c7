"""An index of the messages that are not fanned out yet: few, beside many batches.

Expand only: the code before it works with it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

INDEX = "ix_push_batches_pending"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")  # of an interrupted run
            op.execute(f"CREATE INDEX CONCURRENTLY {INDEX} ON push_batches (message_id) WHERE size = 0")
    else:
        op.create_index(INDEX, "push_batches", ["message_id"], sqlite_where=sa.text("size = 0"))


def downgrade() -> None:
    op.drop_index(INDEX, "push_batches")
