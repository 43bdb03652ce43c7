"""Messages on their way, and the queue."""

import sqlalchemy as sa
from alembic import context, op
from procrastinate.schema import SchemaManager

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# The schema of Procrastinate 3.10, to which requirements.txt holds it. A later one brings migrations of
# its own: before it is let in, this SQL must be frozen here, and theirs run after it.
QUEUE = SchemaManager.get_schema()

DROP_QUEUE = """
DO $$
DECLARE
    name text;
BEGIN
    DROP TABLE procrastinate_events, procrastinate_periodic_defers, procrastinate_jobs,
        procrastinate_workers CASCADE;
    FOR name IN SELECT oid::regprocedure FROM pg_proc WHERE proname LIKE 'procrastinate\\_%' LOOP
        EXECUTE 'DROP FUNCTION ' || name || ' CASCADE';
    END LOOP;
    DROP TYPE procrastinate_job_to_defer_v1, procrastinate_job_status, procrastinate_job_event_type CASCADE;
END;
$$
"""


def _identity() -> sa.Column[int]:
    type_ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("id", type_, sa.Identity(), nullable=False)


def _message_id(**more: bool) -> sa.Column[int]:
    type_ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    foreign_key = sa.ForeignKey("push_messages.id", ondelete="CASCADE")
    return sa.Column("message_id", type_, foreign_key, nullable=False, **more)


def upgrade() -> None:
    op.create_table(
        "push_failures",
        sa.Column("subscription_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("subscription_id"),
    )
    op.create_table(
        "push_messages",
        _identity(),
        sa.Column("user_id", sa.String(255), nullable=True),
        sa.Column("message", sa.JSON(), nullable=False),
        sa.Column("recipients", sa.BigInteger(), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idempotency_key"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "push_slices",
        _identity(),
        _message_id(),
        sa.Column("first_id", sa.BigInteger(), nullable=False),
        sa.Column("last_id", sa.BigInteger(), nullable=False),
        sa.Column("subscription_ids", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_push_slices_message_id", "push_slices", ["message_id"])
    op.create_index("ix_push_slices_due_at", "push_slices", ["due_at"])
    op.create_table(
        "push_outcomes",
        _message_id(),
        sa.Column("push_service", sa.Text(), nullable=False),
        sa.Column("outcome", sa.String(8), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", "push_service", "outcome"),
    )
    if op.get_context().dialect.name == "postgresql":
        _run(QUEUE)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _run(DROP_QUEUE)
    for table in ("push_outcomes", "push_slices", "push_messages", "push_failures"):
        op.drop_table(table)


def _run(statements: str) -> None:
    # Several statements with percent signs and colons in them: for the driver, as they stand.
    if context.is_offline_mode():
        op.execute(statements.replace(":", "\\:"))
    else:
        op.get_bind().connection.driver_connection.execute(statements)
