"""Connections to the database: how long one waits for it, and what happens while it is away."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from psycopg.abc import PQGenConn
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.exc import DBAPIError, InternalError, InvalidatePoolError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import InterfaceError as DriverError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from .circuit_breaker import CircuitBreaker, CircuitOpenError

CONNECT_TIMEOUT = 1.6  # seconds, for one of the server's addresses
ANSWER_TIMEOUT = 1.6  # seconds, for all that one request asks; PostgreSQL gives up a statement before that
FAILURES_TO_OPEN = 3  # in a row: from then on one of a process's threads asks, and the others fail at once
NOT_MIGRATED = ("42P01", "42P10")  # no such table, no such unique index
WEIGHT_OF_SILENCE = FAILURES_TO_OPEN  # a server that says nothing, or is not there, needs no second proof


class UnavailableError(SQLAlchemyError):
    """The database has failed others just now, so this one did not ask it."""


def init_app(app: Flask) -> None:
    """Let an application's requests know of each other whether the database answers."""
    app.extensions["push_circuit_breaker"] = CircuitBreaker(FAILURES_TO_OPEN)


def engine() -> Engine:
    """Return the engine of the database registered on the current application."""
    database: SQLAlchemy = current_app.extensions["sqlalchemy"]
    return database.engine


def deadline(seconds: float = ANSWER_TIMEOUT) -> float:
    """Return the moment, on the monotonic clock, until which the database is waited for."""
    return time.monotonic() + seconds


@contextmanager
def autocommit(until: float | None = None) -> Iterator[Connection]:
    """Yield a connection where each statement is its own transaction: no BEGIN, no COMMIT to wait for.

    PostgreSQL is waited for until `until`, ANSWER_TIMEOUT from now unless it says otherwise.
    """
    with _connected(until) as connection:
        driver_connection = connection.connection.dbapi_connection
        if driver_connection and not connection.dialect.detect_autocommit_setting(driver_connection):
            connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


@contextmanager
def transaction(until: float | None = None) -> Iterator[Connection]:
    """Yield a connection in one transaction, which is committed at the end.

    PostgreSQL is waited for until `until`, ANSWER_TIMEOUT from now unless it says otherwise.
    """
    with _connected(until) as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="READ COMMITTED")
        yield connection
        connection.commit()


@contextmanager
def _connected(until: float | None) -> Iterator[Connection]:
    with _watched(), engine().connect() as connection:
        driver_connection = connection.connection.driver_connection
        if not isinstance(driver_connection, _BoundedConnection):
            yield connection
            return
        driver_connection.until = until or deadline()
        try:
            yield connection
        finally:
            driver_connection.until = None


@contextmanager
def _watched() -> Iterator[None]:
    breaker: CircuitBreaker = current_app.extensions["push_circuit_breaker"]
    try:
        with breaker.attempt():
            yield
            breaker.succeeded()
    except CircuitOpenError as error:
        raise UnavailableError(str(error)) from None
    except SQLAlchemyError as error:
        if is_passing(error):
            breaker.failed(weight=WEIGHT_OF_SILENCE if _is_silence(error) else 1)
        else:
            breaker.succeeded()
        raise


def is_passing(error: SQLAlchemyError) -> bool:
    """Say whether the database is away or too slow, rather than asked for something wrong.

    psycopg reports a lost server, a statement's time-out and recovery as OperationalError, a
    read-only standby as InternalError; a table or an index that is not there yet waits for
    `flask db upgrade`.
    """
    if isinstance(error, UnavailableError | PoolTimeout | OperationalError | InternalError | DriverError):
        return True
    return _sqlstate(error) in NOT_MIGRATED


def describe(error: SQLAlchemyError) -> str:
    """Return a database error's class and state, without the statement and its values."""
    if not isinstance(error, DBAPIError):
        return type(error).__name__
    return f"{type(error.orig).__name__} {_sqlstate(error) or ''}".rstrip()


def _is_silence(error: SQLAlchemyError) -> bool:
    # What a server says, it says with a state; what libpq and we say of a silent one has none.
    return isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.Error) and not error.orig.sqlstate


def _sqlstate(error: SQLAlchemyError) -> str | None:
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


def prepare(engine: Engine) -> None:
    """Make an engine of our own wait no longer than it should, and notice what has been closed."""
    if engine.dialect.name == "postgresql":
        event.listen(engine, "do_connect", _connect_with_bounded_waits)
        event.listen(engine.pool, "checkout", _refuse_closed_connection)
    else:
        event.listen(engine, "connect", _use_write_ahead_log)


class _BoundedConnection(psycopg.Connection[Any]):
    """A connection that gives up on a server that does not answer (it may be stopped, or its host gone)."""

    until: float | None = None  # on the monotonic clock

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Any]:
        # psycopg, as libpq, waits at least 2 seconds. It looks in here every 0.1 seconds.
        give_up_at = deadline(CONNECT_TIMEOUT)
        attempt = super()._connect_gen(conninfo)
        try:
            asked = next(attempt)
            while True:
                ready = yield asked
                if time.monotonic() > give_up_at:
                    raise psycopg.errors.ConnectionTimeout("connection timeout expired")
                asked = attempt.send(ready)
        except StopIteration as done:
            return done.value

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        if timeout is None:
            timeout = ANSWER_TIMEOUT if self.until is None else max(0.0, self.until - time.monotonic())
        try:
            return super().wait(gen, interval, timeout)
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
