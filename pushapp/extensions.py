"""The Flask extensions: `db`, `migrate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from . import database
from .config import ConfigurationError, load_database_config
from .dialects import INSERTS


def _find_migrations() -> Path:
    # In an installation they are inside the package, in a checkout beside it.
    package = Path(__file__).parent
    beside = package.parent / "migrations"
    is_checkout = (beside / "versions" / "0001_baseline.py").exists()
    return beside if is_checkout else package / "migrations"


MIGRATIONS = _find_migrations()


class Base(DeclarativeBase):
    """Base class of the models."""


db = SQLAlchemy(model_class=Base)
migrate = Migrate(directory=str(MIGRATIONS), render_as_batch=True)


def init_app(app: Flask) -> None:
    """Use the application's Flask-SQLAlchemy object, or register pushapp's if it has none.

    Raises ConfigurationError if the database cannot be used.
    """
    host_db: SQLAlchemy | None = app.extensions.get("sqlalchemy")
    if host_db is None:
        load_database_config(app)
        db.init_app(app)
        migrate.init_app(app, db)
    registered = host_db or db
    _reject_same_names(registered.metadata)
    with app.app_context():
        if None not in registered.engines:
            raise ConfigurationError("SQLALCHEMY_DATABASE_URI is not set: pushapp stores its tables there")
        engine = registered.engine
    if engine.dialect.name not in INSERTS:
        raise ConfigurationError(
            f"the database is {engine.dialect.name}: pushapp supports only postgresql and sqlite"
        )
    if registered is db and engine.dialect.name == "sqlite":
        database.use_write_ahead_log(engine)
    database.init_app(app, engine, _connect_args(app, registered))


def _connect_args(app: Flask, registered: SQLAlchemy) -> Mapping[str, Any]:
    # Flask-SQLAlchemy's own precedence; an engine does not show its arguments.
    bind = app.config["SQLALCHEMY_BINDS"].get(None)
    options = {
        **registered._engine_options,
        **(bind if isinstance(bind, Mapping) else {}),
        **app.config["SQLALCHEMY_ENGINE_OPTIONS"],
    }
    connect_args: Mapping[str, Any] = options.get("connect_args", {})
    return connect_args


def _reject_same_names(metadata: MetaData) -> None:
    for table in metadata.tables.values():
        if metadata is not db.metadata and table.name in db.metadata.tables and table.schema is None:
            raise ConfigurationError(
                f"your application has a table {table.name}, a name that pushapp's tables have: rename yours"
            )
