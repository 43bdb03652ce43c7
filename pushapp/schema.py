"""The database schema: pushapp's own migrations, which a host's migrations neither see nor change."""

import sys
from collections.abc import Mapping
from typing import Any

from alembic.autogenerate import comparators
from alembic.autogenerate.api import AutogenContext
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util import CommandError
from flask import current_app, has_app_context
from sqlalchemy import Connection, inspect

from .extensions import MIGRATIONS, db

VERSION_TABLE = "push_alembic_version"
QUEUE_SCHEMA = "push_queue"


def alembic_config() -> Config:
    """Return Alembic's configuration for pushapp's migrations, without a configuration of logging."""
    # Alembic's default is the standard output at the time of its import.
    attributes = {"configure_logging": False}
    config = Config(MIGRATIONS / "alembic.ini", stdout=sys.stdout, attributes=attributes)
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def reject_foreign_names(connection: Connection) -> None:
    """Raise CommandError if the database has pushapp's names for something that is not pushapp's."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    if context.get_current_heads():
        return
    inspector = inspect(connection)
    foreign = [
        *(("table", name) for name in inspector.get_table_names() if name in db.metadata.tables),
        *(("view", name) for name in inspector.get_view_names() if name in db.metadata.tables),
        *(("schema", name) for name in inspector.get_schema_names() if name == QUEUE_SCHEMA),
    ]
    if foreign:
        kind, name = min(foreign)
        raise CommandError(
            f"the database has a {kind} {name} that is not pushapp's: rename it, then run this again"
        )


@comparators.dispatch_for("schema")
def _hide_from_hosts(context: AutogenContext, _operations: Any, schemas: set[str | None]) -> None:
    # Alembic calls this before it compares a host's models with the database.
    is_host = has_app_context() and "push_engine" in current_app.extensions
    if not is_host or context.metadata is db.metadata:
        return
    schemas.discard(QUEUE_SCHEMA)
    names = {*db.metadata.tables, VERSION_TABLE}

    def is_visible(name: str | None, kind: str, parents: Mapping[str, str | None]) -> bool:
        return kind != "table" or name not in names or parents.get("schema_name") is not None

    # Not by `include_name` or `include_object`: a host may pass its own.
    context._name_filters.append(is_visible)
