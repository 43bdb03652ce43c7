"""Statements that PostgreSQL's driver executes, without SQLAlchemy's connection and result."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import PoolProxiedConnection

from .database import autocommit, circuit_breaker, deadline_after, engine


class FrequentStatement:
    """A statement that is compiled once; on PostgreSQL the driver executes it, in autocommit mode.

    For what each request does: SQLAlchemy's connection, cache and result cost more than a short query.
    `statements` has one for each dialect.
    """

    def __init__(self, statements: Mapping[str, Any]):
        self._statements = statements
        dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]  # SQLAlchemy has no type
        self._sql = str(statements["postgresql"].compile(dialect=dialect))

    def execute(self, parameters: Mapping[str, Any], deadline: float | None = None) -> Sequence[Any]:
        """Execute it and return its rows; the errors are SQLAlchemy's.

        Fails on PostgreSQL after `deadline`, by default QUERY_BUDGET seconds from now.
        """
        database_engine = engine()
        if database_engine.dialect.name != "postgresql":
            with autocommit() as connection:
                result = connection.execute(self._statements[database_engine.dialect.name], parameters)
                return result.all() if result.returns_rows else []
        with circuit_breaker():
            return self._execute(database_engine, parameters, deadline or deadline_after())

    def _execute(
        self, database_engine: Engine, parameters: Mapping[str, Any], deadline: float
    ) -> Sequence[Any]:
        pooled: PoolProxiedConnection | None = None
        connection: Any = None
        try:
            pooled = database_engine.raw_connection()
            connection = pooled.driver_connection
            connection.deadline = deadline
            cursor = connection.execute(self._sql, parameters)
            connection.deadline = None
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            if pooled and connection.closed:
                pooled.invalidate(error)
            raise DBAPIError.instance(
                self._sql, None, error, psycopg.Error, hide_parameters=True, dialect=database_engine.dialect
            ) from error
        finally:
            if pooled:
                pooled.close()
