"""Runs the migrations on the database of the current Flask application."""

from logging.config import fileConfig

from alembic import context
from alembic.util import CommandError
from flask import current_app
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import OperationalError

fileConfig(context.config.config_file_name, disable_existing_loggers=False)

LOCK_NOT_AVAILABLE = "55P03"

migrate = current_app.extensions["migrate"]
options = {"target_metadata": migrate.db.metadata, **migrate.configure_args}


def run_offline() -> None:
    """Print the SQL instead of running it."""
    context.configure(dialect_name=migrate.db.engine.dialect.name, literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run on a connection of its own: a migration may take longer than a request may."""
    engine = create_engine(migrate.db.engine.url, poolclass=NullPool)
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise CommandError(f"database unavailable: {error.orig}") from None
    with connection:
        context.configure(connection=connection, **options)
        try:
            with context.begin_transaction():
                context.run_migrations()
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            raise CommandError("lock timeout: a table is in use; retry later") from None


if context.is_offline_mode():
    run_offline()
else:
    run_online()
