"""The Flask extensions: `db`, `migrate`, `api`, and how a database connection behaves."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from flask import Flask, current_app
from flask_cors import CORS
from flask_migrate import Migrate
from flask_smorest import Api as SmorestApi
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, Engine, Table, TypeDecorator, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

MIGRATIONS = Path(__file__).parent.parent / "migrations"
ANSWER_TIMEOUT = 1.9  # seconds, more than PostgreSQL gives a statement: for one that has stopped answering


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
    if "sqlalchemy" in app.extensions:
        metadata = app.extensions["sqlalchemy"].metadata
        for table in db.metadata.tables.values():
            if table.key not in metadata.tables:
                _use_plain_types(table.to_metadata(metadata))
        return
    db.init_app(app)
    migrate.init_app(app, db)
    with app.app_context():
        _prepare(db.engine)


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


def engine() -> Engine:
    """Return the engine of the database registered on the current application."""
    database: SQLAlchemy = current_app.extensions["sqlalchemy"]
    return database.engine


@contextmanager
def autocommit() -> Iterator[Connection]:
    """Yield a connection where each statement is its own transaction: no BEGIN, no COMMIT to wait for."""
    with engine().connect() as connection:
        driver_connection = connection.connection.dbapi_connection
        if driver_connection and not connection.dialect.detect_autocommit_setting(driver_connection):
            connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


@contextmanager
def transaction(*, bounded: bool = True) -> Iterator[Connection]:
    """Yield a connection in one transaction, which is committed at the end.

    Where nobody waits for the answer it need not be bounded: then PostgreSQL may take as long as it needs.
    """
    with engine().connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="READ COMMITTED")
        driver_connection = connection.connection.driver_connection
        if not bounded and isinstance(driver_connection, _BoundedConnection):
            driver_connection.answer_timeout = None
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        try:
            yield connection
            connection.commit()
        finally:
            if isinstance(driver_connection, _BoundedConnection):
                driver_connection.answer_timeout = ANSWER_TIMEOUT


def _use_plain_types(table: Table) -> None:
    # `flask db migrate` writes types by their names, and imports none but SQLAlchemy's own.
    for column in table.columns:
        if isinstance(column.type, TypeDecorator):
            column.type = column.type.impl_instance


def _prepare(engine: Engine) -> None:
    if engine.dialect.name == "postgresql":
        event.listen(engine, "do_connect", _connect_with_bounded_waits)
        event.listen(engine.pool, "checkout", _refuse_closed_connection)
    else:
        event.listen(engine, "connect", _use_write_ahead_log)


class _BoundedConnection(psycopg.Connection[Any]):
    """A connection that gives up on a server that does not answer (it may be stopped, or its host gone)."""

    answer_timeout: float | None = ANSWER_TIMEOUT

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.answer_timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self.close()  # an answer that comes late must not be taken for the next one's
            raise


def _connect_with_bounded_waits(
    _dialect: Dialect, _record: ConnectionPoolEntry, arguments: Sequence[Any], parameters: dict[str, Any]
) -> DBAPIConnection:
    return _BoundedConnection.connect(*arguments, **parameters)  # type: ignore[return-value]


def _refuse_closed_connection(
    connection: DBAPIConnection, _record: ConnectionPoolEntry, _proxy: PoolProxiedConnection
) -> None:
    # Reading what has arrived, without waiting, finds a connection that has not survived a restart of
    # the server, and costs no round trip. Twice: the server's farewell comes before the end.
    try:
        for _ in range(2):
            connection.pgconn.consume_input()
    except psycopg.OperationalError:
        raise InvalidatePoolError("the server has closed this connection") from None


def _use_write_ahead_log(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
