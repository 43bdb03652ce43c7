"""Connections to the database: time-outs, and what happens during an outage."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.exc import DBAPIError, InternalError, InvalidatePoolError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import InterfaceError as DriverError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from .circuit_breaker import CallRejectedError, CircuitBreaker

QUERY_BUDGET = 1.6  # seconds, for all statements of a request; above PostgreSQL's statement_timeout
FAILURE_THRESHOLD = 3  # consecutive failures that open the circuit
UNDEFINED_TABLE, INVALID_COLUMN_REFERENCE = "42P01", "42P10"  # the migrations have not run yet
TIMEOUT_WEIGHT = FAILURE_THRESHOLD  # one time-out opens the circuit


class DatabaseUnavailableError(SQLAlchemyError):
    """The circuit to the database is open: no connection was attempted."""


def init_app(app: Flask) -> None:
    """Create the application's circuit breaker."""
    app.extensions["push_circuit_breaker"] = CircuitBreaker(FAILURE_THRESHOLD)


def engine() -> Engine:
    """Return the engine of the current application's database."""
    database: SQLAlchemy = current_app.extensions["sqlalchemy"]
    return database.engine


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
    with _circuit_breaker(), engine().connect() as connection:
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
def _circuit_breaker() -> Iterator[None]:
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


def configure_engine(engine: Engine) -> None:
    """Add time-outs and a check for closed connections to an engine; on SQLite, a write-ahead log."""
    if engine.dialect.name == "postgresql":
        event.listen(engine, "do_connect", _connect_with_timeouts)
        event.listen(engine.pool, "checkout", _ping)
    else:
        event.listen(engine, "connect", _use_write_ahead_log)


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
    return _TimedConnection.connect(*arguments, **parameters)  # type: ignore[return-value]


def _ping(connection: DBAPIConnection, _record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    # Finds a connection that the server has closed, without a round trip. Twice: the server's shutdown
    # message comes before the end of the stream.
    try:
        for _ in range(2):
            connection.pgconn.consume_input()
    except psycopg.OperationalError:
        raise InvalidatePoolError("connection closed by the server") from None


def _use_write_ahead_log(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
