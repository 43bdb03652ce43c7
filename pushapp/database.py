"""Connections to the database: time-outs, and what happens during an outage."""

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import psycopg
from flask import Flask, current_app
from psycopg.pq import Conninfo
from sqlalchemy import URL, Connection, Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.exc import DBAPIError, InternalError, InvalidatePoolError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import InterfaceError as DriverError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from .circuit_breaker import CallRejectedError, CircuitBreaker

CONNECT_TIMEOUT = 2  # seconds, per address of the server; libpq's minimum
POOL_SIZE = 5  # connections a process
POOL_TIMEOUT = 1  # seconds, for a pooled connection; on SQLite for the lock on the file
STATEMENT_TIMEOUT = 1_300  # milliseconds, enforced by PostgreSQL
QUERY_BUDGET = 1.6  # seconds, for all statements of a request; above PostgreSQL's statement_timeout
FAILURE_THRESHOLD = 3  # consecutive failures that open the circuit
HOST_DRIVERS = ("psycopg", "psycopg2")
LIBPQ_PARAMETERS = {option.keyword.decode() for option in Conninfo.get_defaults()}
UNDEFINED_TABLE, INVALID_COLUMN_REFERENCE = "42P01", "42P10"  # the migrations have not run yet
IDLE_IN_TRANSACTION_TIMEOUT = 10_000  # milliseconds; then a stopped process loses its locks
# A host that is gone is noticed within 10 seconds, not after hours.
KEEPALIVES = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
TIMEOUT_WEIGHT = FAILURE_THRESHOLD  # one time-out opens the circuit


class DatabaseUnavailableError(SQLAlchemyError):
    """The circuit to the database is open: no connection was attempted."""


def init_app(app: Flask, database_engine: Engine, connect_args: Mapping[str, Any]) -> None:
    """Give pushapp the application's database.

    On SQLite that is the application's engine. On PostgreSQL it is an engine of pushapp's own for the same
    URL, with those of the application's `connect_args` that libpq knows.
    """
    app.extensions["push_circuit_breaker"] = CircuitBreaker(FAILURE_THRESHOLD)
    app.extensions["push_connect_args"] = {}
    if database_engine.dialect.name == "postgresql":
        url = database_engine.url.set(drivername="postgresql+psycopg")
        options = {name: value for name, value in url.query.items() if name == "options"}
        url = url.difference_update_query(["options", *(set(url.query) - LIBPQ_PARAMETERS)])
        known = {name: value for name, value in connect_args.items() if name in LIBPQ_PARAMETERS}
        own = {
            **KEEPALIVES,
            "connect_timeout": CONNECT_TIMEOUT,
            "prepare_threshold": app.config["PUSH_PREPARE_THRESHOLD"],
        }
        app.extensions["push_connect_args"] = options | known | own
        database_engine = _create_engine(url, options | known | own)
    app.extensions["push_engine"] = database_engine
    _apps.add(app)


def _abandon_connections() -> None:
    for app in _apps:
        database_engine = app.extensions["push_engine"]
        if isinstance(database_engine.pool, QueuePool):  # other pools hold databases in memory, or nothing
            database_engine.dispose(close=False)
        app.extensions["push_circuit_breaker"] = CircuitBreaker(FAILURE_THRESHOLD)


# Connections are the parent's, after a fork too (gunicorn --preload), and a lock may be held.
_apps: WeakSet[Flask] = WeakSet()
os.register_at_fork(after_in_child=_abandon_connections)


def engine() -> Engine:
    """Return pushapp's engine for the current application's database."""
    database_engine: Engine = current_app.extensions["push_engine"]
    return database_engine


def require_same_database(connection: object) -> None:
    """Check that a host's connection can write pushapp's tables.

    Raises ValueError in one line if it is none of SQLAlchemy, of another database, or of another driver.
    """
    if not isinstance(connection, Connection):
        raise ValueError("connection must be an SQLAlchemy Connection, such as db.session.connection()")
    own, given = engine(), connection.engine
    if own is not given and _address(own.url) != _address(given.url):
        raise ValueError("connection is of another database than pushapp's tables")
    if own.dialect.name == "postgresql" and given.dialect.driver not in HOST_DRIVERS:
        raise ValueError(
            f"connection has the driver {given.dialect.driver}: only psycopg and psycopg2 can be used"
        )


def _address(url: URL) -> tuple[object, ...]:
    query = [url.query.get(name) for name in ("host", "port", "dbname", "service")]
    return (url.get_backend_name(), url.host, url.port, url.database, *query)


def connection_parameters(*options: str) -> dict[str, Any]:
    """Return psycopg's parameters for a connection to PostgreSQL without time-outs for statements.

    `options` are settings of the server, such as `search_path=push_queue`.
    """
    _, parameters = engine().dialect.create_connect_args(engine().url)
    return _with_options(parameters | current_app.extensions["push_connect_args"], *options)


def _with_options(parameters: Mapping[str, Any], *options: str) -> dict[str, Any]:
    given = [parameters["options"]] if "options" in parameters else []
    return {**parameters, "options": " ".join([*given, *(f"-c {option}" for option in options)])}


@contextmanager
def migration_connection() -> Iterator[Connection]:
    """Yield a connection for migrations, which may take longer than requests."""
    database_engine = engine()
    if database_engine.dialect.name == "postgresql":
        connect_args = current_app.extensions["push_connect_args"]
        database_engine = create_engine(database_engine.url, poolclass=NullPool, connect_args=connect_args)
    with database_engine.connect() as connection:
        yield connection


def _create_engine(url: URL, connect_args: Mapping[str, Any]) -> Engine:
    # UTC: a date in the year 9999 cannot be read in a time zone ahead of it.
    settings = (
        f"statement_timeout={STATEMENT_TIMEOUT}",
        f"idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT}",
        "timezone=UTC",
    )
    database_engine = create_engine(
        url,
        connect_args=_with_options(connect_args, *settings),
        hide_parameters=True,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        # Most requests are one statement: no BEGIN, and no rollback when the connection is returned.
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
    )
    event.listen(database_engine, "do_connect", _connect_with_timeouts)
    event.listen(database_engine.pool, "checkout", _ping)
    return database_engine


def deadline_after(seconds: float = QUERY_BUDGET) -> float:
    """Return a deadline on the monotonic clock."""
    return time.monotonic() + seconds


@contextmanager
def autocommit(deadline: float | None = None) -> Iterator[Connection]:
    """Yield a connection in autocommit mode, without round trips for BEGIN and COMMIT.

    Statements on PostgreSQL fail after `deadline`, by default QUERY_BUDGET seconds from now.
    """
    with _connect(deadline) as connection:
        driver_connection = connection.connection.dbapi_connection
        if driver_connection and not connection.dialect.detect_autocommit_setting(driver_connection):
            connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection
        # A host's SQLite engine may begin transactions itself, by SQLAlchemy's event "begin".
        connection.commit()


@contextmanager
def transaction(deadline: float | None = None) -> Iterator[Connection]:
    """Yield a connection in one transaction, committed at the end.

    Statements on PostgreSQL fail after `deadline`, by default QUERY_BUDGET seconds from now.
    """
    with _connect(deadline) as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="READ COMMITTED")
        yield connection
        connection.commit()


@contextmanager
def _connect(deadline: float | None) -> Iterator[Connection]:
    with circuit_breaker(), engine().connect() as connection:
        driver_connection = connection.connection.driver_connection
        if not isinstance(driver_connection, _TimedConnection):
            yield connection
            return
        driver_connection.deadline = deadline or deadline_after()
        try:
            yield connection
        finally:
            driver_connection.deadline = None


@contextmanager
def circuit_breaker() -> Iterator[None]:
    """Guard a use of the database: report its outcome, and reject it while the circuit is open.

    Raises DatabaseUnavailableError.
    """
    breaker: CircuitBreaker = current_app.extensions["push_circuit_breaker"]
    try:
        with breaker.call():
            yield
            breaker.record_success()
    except CallRejectedError as error:
        raise DatabaseUnavailableError(str(error)) from None
    except SQLAlchemyError as error:
        if is_transient(error):
            breaker.record_failure(weight=TIMEOUT_WEIGHT if _is_timeout(error) else 1)
        else:
            breaker.record_success()
        raise


def is_transient(error: SQLAlchemyError) -> bool:
    """Return whether an error is transient: an outage, a time-out, or a migration that has not run yet.

    psycopg reports a lost server, a statement time-out and recovery as OperationalError, a read-only
    standby as InternalError.
    """
    transient = DatabaseUnavailableError | PoolTimeout | OperationalError | InternalError | DriverError
    return isinstance(error, transient) or _sqlstate(error) in (UNDEFINED_TABLE, INVALID_COLUMN_REFERENCE)


def summarize(error: SQLAlchemyError) -> str:
    """Return a database error's class and SQLSTATE, without the statement and its values."""
    if not isinstance(error, DBAPIError):
        return type(error).__name__
    return f"{type(error.orig).__name__} {_sqlstate(error) or ''}".rstrip()


def _is_timeout(error: SQLAlchemyError) -> bool:
    # Errors of the server have an SQLSTATE, time-outs and lost connections have none.
    return isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.Error) and not error.orig.sqlstate


def _sqlstate(error: SQLAlchemyError) -> str | None:
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


class _TimedConnection(psycopg.Connection[Any]):
    """A connection with client-side time-outs, for a server that is stopped or whose host is gone."""

    deadline: float | None = None  # on the monotonic clock

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if timeout is None:
            timeout = QUERY_BUDGET if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self.close()  # a late response must not be read as the next statement's
            raise


def _connect_with_timeouts(
    _dialect: Dialect, _record: ConnectionPoolEntry, arguments: Sequence[Any], parameters: dict[str, Any]
) -> DBAPIConnection:
    # Autocommit from the start: listeners of a host for all engines may execute statements now.
    return _TimedConnection.connect(*arguments, autocommit=True, **parameters)  # type: ignore[return-value]  # a protocol of SQLAlchemy


def _ping(connection: DBAPIConnection, _record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    # Finds a connection that the server has closed, without a round trip. Twice: the server's shutdown
    # message comes before the end of the stream.
    try:
        for _ in range(2):
            connection.pgconn.consume_input()
    except psycopg.OperationalError:
        raise InvalidatePoolError("connection closed by the server") from None


def use_write_ahead_log(database_engine: Engine) -> None:
    """Let readers of a SQLite database work while a writer does."""

    def enable(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
        connection.execute("PRAGMA journal_mode=WAL")

    event.listen(database_engine, "connect", enable)
