"""The database schema: pushapp's own migrations, which a host's migrations neither see nor change."""

from typing import Any

from alembic.autogenerate import comparators
from alembic.autogenerate.api import AutogenContext
from alembic.config import Config
from alembic.util import CommandError
from flask import current_app, has_app_context
from sqlalchemy import Connection, inspect

from .extensions import MIGRATIONS, db

VERSION_TABLE = "push_alembic_version"
QUEUE_SCHEMA = "push_queue"


def alembic_config() -> Config:
    """Return Alembic's configuration for pushapp's migrations, without a configuration of logging."""
    config = Config(MIGRATIONS / "alembic.ini", attributes={"configure_logging": False})
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def reject_foreign_tables(connection: Connection) -> None:
    """Raise CommandError if the database has tables with pushapp's names that are not pushapp's."""
    existing = set(inspect(connection).get_table_names())
    foreign = sorted(existing.intersection(db.metadata.tables))
    if foreign and VERSION_TABLE not in existing:
        raise CommandError(
            f"the database has a table {foreign[0]} that is not pushapp's: rename it, then run this again"
        )


@comparators.dispatch_for("schema")
def _hide_from_hosts(context: AutogenContext, _operations: Any, schemas: set[str | None]) -> None:
    # Alembic calls this before it compares a host's models with the database.
    is_host = has_app_context() and "push_engine" in current_app.extensions
    if not is_host or context.metadata is db.metadata:
        return
    schemas.discard(QUEUE_SCHEMA)
    names = {*db.metadata.tables, VERSION_TABLE}
    # Not by `include_name` or `include_object`: a host may pass its own.
    context._name_filters.append(lambda name, kind, _parents: kind != "table" or name not in names)
