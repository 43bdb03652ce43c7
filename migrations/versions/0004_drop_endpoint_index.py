"""Takes away the unique index that 0003 replaces, which was as large as the table.

Code older than 0003 needs it: on a site that does not stop for an upgrade, run this when the last of
that code has stopped.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

takes_away = True  # the code that it comes with works without it having run

NAME = "uq_push_subscriptions_user_id_endpoint"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        # Whoever holds the table for long must not make everybody wait behind us.
        op.execute("SET LOCAL lock_timeout = '900ms'")
        op.drop_constraint(NAME, "push_subscriptions", type_="unique")


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")
            op.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {NAME} ON push_subscriptions (user_id, endpoint)")
        op.execute(f"ALTER TABLE push_subscriptions ADD CONSTRAINT {NAME} UNIQUE USING INDEX {NAME}")
