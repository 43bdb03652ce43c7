"""The Flask extensions: `db`, `migrate`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import TypeDecorator
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase

from . import database

MIGRATIONS = Path(__file__).parent.parent / "migrations"

INSERTS: Mapping[str, Callable[..., Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


class Base(DeclarativeBase):
    """Base class of the models."""


db = SQLAlchemy(model_class=Base)
migrate = Migrate(directory=str(MIGRATIONS), render_as_batch=True)


def init_app(app: Flask) -> None:
    """Register the database, unless the application has a Flask-SQLAlchemy object of its own.

    That object stays as it is; the tables are copied to its metadata, for its own migrations.
    """
    database.init_app(app)
    if "sqlalchemy" in app.extensions:
        metadata = app.extensions["sqlalchemy"].metadata
        for table in db.metadata.tables.values():
            if table.key not in metadata.tables:
                for column in table.to_metadata(metadata).columns:
                    if isinstance(column.type, TypeDecorator):
                        # `flask db migrate` imports no types but SQLAlchemy's own.
                        column.type = column.type.impl_instance
        return
    db.init_app(app)
    migrate.init_app(app, db)
    with app.app_context():
        database.configure_engine(db.engine)
