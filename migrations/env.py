"""Runs pushapp's migrations on the database of the current Flask application."""

from logging.config import fileConfig

from alembic import context
from alembic.util import CommandError
from psycopg.errors import InsufficientPrivilege, LockNotAvailable
from sqlalchemy.exc import OperationalError, ProgrammingError

from pushapp.database import engine, migration_connection
from pushapp.extensions import db
from pushapp.schema import VERSION_TABLE, reject_foreign_names

if context.config.config_file_name and context.config.attributes.get("configure_logging", True):
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

OURS = {*db.metadata.tables, VERSION_TABLE}
options = {
    "target_metadata": db.metadata,
    "version_table": VERSION_TABLE,
    "render_as_batch": True,
    "include_name": lambda name, kind, _parents: kind != "table" or name in OURS,
}


def run_offline() -> None:
    """Print the SQL instead of running it."""
    context.configure(dialect_name=engine().dialect.name, literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run on a connection without the time-outs of requests."""
    try:
        with migration_connection() as connection:
            reject_foreign_names(connection)
            connection.rollback()
            context.configure(connection=connection, **options)
            with context.begin_transaction():
                context.run_migrations()
            connection.commit()
    except (OperationalError, ProgrammingError, InsufficientPrivilege) as error:
        original = getattr(error, "orig", error)
        if isinstance(original, LockNotAvailable):
            raise CommandError("lock timeout: a table is in use; retry later") from None
        if isinstance(original, InsufficientPrivilege):
            reason = original.diag.message_primary
            raise CommandError(f"the role needs CREATE on the database and its schema: {reason}") from None
        if isinstance(error, OperationalError) and error.statement is None:
            message = " ".join(str(original).split())
            raise CommandError(f"database unavailable: {message}") from None
        raise


if context.is_offline_mode():
    run_offline()
else:
    run_online()
