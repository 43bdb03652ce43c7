"""The tables, and on PostgreSQL the queue in the schema push_queue."""

import procrastinate
import sqlalchemy as sa
from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Procrastinate 3.10's schema; requirements.txt pins that version. A later version has migrations of its
# own: before it is allowed, this SQL has to be frozen here, and those have to run after it.
PROCRASTINATE_SQL = procrastinate.App(
    connector=procrastinate.SyncPsycopgConnector()
).schema_manager.get_schema()

FIX_SEARCH_PATH = """
DO $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN SELECT oid FROM pg_proc WHERE pronamespace = 'push_queue'::regnamespace LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = push_queue', function);
    END LOOP;
END;
$$;
"""
ENTER_SCHEMA = "CREATE SCHEMA push_queue; SET LOCAL search_path = push_queue;"
CREATE_QUEUE = ENTER_SCHEMA + PROCRASTINATE_SQL + FIX_SEARCH_PATH


def _id() -> sa.Column[int]:
    type_ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("id", type_, sa.Identity(), nullable=False)


def _message_id() -> sa.Column[int]:
    type_ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    foreign_key = sa.ForeignKey("push_messages.id", ondelete="CASCADE")
    return sa.Column("message_id", type_, foreign_key, nullable=False)


def _timestamp(name: str, *, default: bool = False, nullable: bool = False) -> sa.Column[sa.DateTime]:
    server_default = sa.func.now() if default else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=server_default, nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "push_subscriptions",
        _id(),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("endpoint", sa.String(2048), nullable=False),
        sa.Column("endpoint_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("keys_p256dh", sa.String(88), nullable=False),
        sa.Column("keys_auth", sa.String(24), nullable=False),
        _timestamp("expires_at", nullable=True),
        _timestamp("created_at", default=True),
        _timestamp("updated_at", default=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("user_id", "endpoint_hash", name="uq_push_subscriptions_user_id_endpoint_hash"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_push_subscriptions_endpoint_hash",
        "push_subscriptions",
        ["endpoint_hash"],
        postgresql_using="hash",
    )
    op.create_index(
        "ix_push_subscriptions_expires_at",
        "push_subscriptions",
        ["expires_at"],
        postgresql_where=sa.text("expires_at IS NOT NULL"),
        sqlite_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_table(
        "push_failures",
        sa.Column("subscription_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        _timestamp("since"),
        sa.PrimaryKeyConstraint("subscription_id"),
    )
    op.create_table(
        "push_messages",
        _id(),
        sa.Column("user_id", sa.String(255), nullable=True),
        sa.Column("message", sa.JSON(), nullable=False),
        sa.Column("recipients", sa.BigInteger(), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        _timestamp("created_at", default=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idempotency_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_push_messages_created_at", "push_messages", ["created_at"])
    op.create_table(
        "push_batches",
        _id(),
        _message_id(),
        sa.Column("first_id", sa.BigInteger(), nullable=False),
        sa.Column("last_id", sa.BigInteger(), nullable=False),
        sa.Column("subscription_ids", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        _timestamp("due_at"),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_push_batches_message_id", "push_batches", ["message_id"])
    op.create_index("ix_push_batches_due_at", "push_batches", ["due_at"])
    op.create_table(
        "push_outcomes",
        _message_id(),
        sa.Column("push_service", sa.Text(), nullable=False),
        sa.Column("outcome", sa.String(8), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", "push_service", "outcome"),
    )
    if op.get_context().dialect.name == "postgresql":
        _create_queue()


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP SCHEMA push_queue CASCADE")
    for table in ("push_outcomes", "push_batches", "push_messages", "push_failures", "push_subscriptions"):
        op.drop_table(table)


def _create_queue() -> None:
    if context.is_offline_mode():
        # Unchanged: `op.execute` would escape its percent signs.
        op.get_context().impl.static_output(f"{CREATE_QUEUE}RESET search_path;")
        return
    connection = op.get_bind()
    search_path = connection.execute(sa.text("SELECT current_setting('search_path')")).scalar_one()
    # Several statements with percent signs and colons: for the driver, unchanged.
    connection.connection.driver_connection.execute(CREATE_QUEUE)
    connection.execute(sa.text("SELECT set_config('search_path', :path, true)"), {"path": search_path})
