"""Statements that PostgreSQL's driver executes, without SQLAlchemy's connection and result."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import PoolProxiedConnection

from .database import autocommit, circuit_breaker, engine

# The driver's; on SQLite SQLAlchemy's.
DriverConnection = psycopg.Connection[Any] | Connection


class FrequentStatement:
    """A statement that is compiled once; on PostgreSQL the driver executes it.

    For what each request does: SQLAlchemy's connection, cache and result cost more than a short query.
    `statements` has one for each dialect.
    """

    def __init__(self, statements: Mapping[str, Any]):
        self._statements = statements
        dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]  # SQLAlchemy has no type
        self._sql = str(statements["postgresql"].compile(dialect=dialect))

    def execute(self, connection: DriverConnection, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Execute it on a connection of `driver_connection`, and return its rows."""
        if isinstance(connection, psycopg.Connection):
            return connection.execute(self._sql, parameters).fetchall()
        return connection.execute(self._statements[connection.dialect.name], parameters).all()


@contextmanager
def driver_connection(deadline: float) -> Iterator[DriverConnection]:
    """Yield a connection in autocommit mode for frequent statements; the errors are SQLAlchemy's.

    They fail on PostgreSQL after `deadline`.
    """
    database_engine = engine()
    if database_engine.dialect.name != "postgresql":
        with autocommit() as sqlite_connection:
            yield sqlite_connection
        return
    with circuit_breaker():
        pooled: PoolProxiedConnection | None = None
        connection: Any = None
        try:
            pooled = database_engine.raw_connection()
            connection = pooled.driver_connection
            connection.deadline = deadline
            yield connection
        except psycopg.Error as error:
            if pooled and connection.closed:
                pooled.invalidate(error)
            raise DBAPIError.instance(
                None, None, error, psycopg.Error, hide_parameters=True, dialect=database_engine.dialect
            ) from error
        finally:
            if pooled:
                connection.deadline = None
                pooled.close()
