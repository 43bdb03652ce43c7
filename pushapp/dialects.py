"""What differs between statements for PostgreSQL and for SQLite."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from sqlalchemy import ARRAY, ColumnElement, Connection, any_, literal
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")

INSERTS: Mapping[str, Callable[..., Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


def is_one_of(connection: Connection, column: ColumnElement[T], values: Collection[T]) -> ColumnElement[bool]:
    """Return the condition that a column has one of some values.

    On PostgreSQL they are one parameter: the statement is the same for any number of them, so it is parsed
    and planned once.
    """
    if connection.dialect.name == "postgresql":
        return column == any_(literal(list(values), ARRAY(column.type)))
    return column.in_(values)
