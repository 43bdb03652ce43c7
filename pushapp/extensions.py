"""The Flask extensions: `db`, `migrate`, `api`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flask import Flask
from flask_cors import CORS
from flask_migrate import Migrate
from flask_smorest import Api as SmorestApi
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Table, TypeDecorator
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase

from . import database

MIGRATIONS = Path(__file__).parent.parent / "migrations"


class Base(DeclarativeBase):
    """What the models share."""


class Api(SmorestApi):  # type: ignore[misc]  # flask-smorest ships no types
    """flask-smorest without its own error answers: `errors` gives them."""

    def _register_error_handlers(self) -> None:
        pass


INSERTS: Mapping[str, Callable[..., Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}

db = SQLAlchemy(model_class=Base)
migrate = Migrate(directory=str(MIGRATIONS), render_as_batch=True)
api = Api(
    config_prefix="PUSH_",
    spec_kwargs={"title": "pushapp", "version": "1", "openapi_version": "3.1.0"},
)


def init_database(app: Flask) -> None:
    """Register the database, unless the application has brought a Flask-SQLAlchemy object of its own.

    A database of the application's own stays as it is, but learns of pushapp's table, so that the
    application's own migrations bring it.
    """
    database.init_app(app)
    if "sqlalchemy" in app.extensions:
        metadata = app.extensions["sqlalchemy"].metadata
        with app.app_context():
            dialect = database.engine().dialect.name
        for table in db.metadata.tables.values():
            if table.key not in metadata.tables:
                copy = table.to_metadata(metadata)
                _use_plain_types(copy)
                _leave_out_what_is_for_others(copy, dialect)
        return
    db.init_app(app)
    migrate.init_app(app, db)
    with app.app_context():
        database.prepare(db.engine)


def init_api(app: Flask) -> None:
    """Register flask-smorest, with the two ways to say who is asking, and answers to other origins."""
    api.init_app(app)
    schemes = api.spec.components
    schemes.security_scheme(
        "session", {"type": "apiKey", "in": "cookie", "name": app.config["SESSION_COOKIE_NAME"]}
    )
    schemes.security_scheme("token", {"type": "http", "scheme": "bearer"})
    if origins := app.config["PUSH_ALLOWED_ORIGINS"]:
        CORS(app, resources={r"/push/.*": {"origins": origins}}, supports_credentials=True)


def _leave_out_what_is_for_others(table: Table, dialect: str) -> None:
    only_on = table.info.get("only_on", {})
    table.indexes = {one for one in table.indexes if only_on.get(one.name, dialect) == dialect}
    table.constraints = {one for one in table.constraints if only_on.get(one.name, dialect) == dialect}


def _use_plain_types(table: Table) -> None:
    # `flask db migrate` writes types by their names, and imports none but SQLAlchemy's own.
    for column in table.columns:
        if isinstance(column.type, TypeDecorator):
            column.type = column.type.impl_instance
