"""Storage of many subscriptions at once, which no browser asked for: none of a browser's is taken away."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import current_app
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    ScalarSelect,
    and_,
    bindparam,
    func,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from . import keys
from .database import deadline_after, transaction
from .dialects import INSERTS
from .models import PushSubscription
from .subscriptions import Subscription, given_or_stored, lock, row_of

STORE_TIMEOUT = 30  # seconds, for all statements of a call

_table = PushSubscription.__table__
_column = _table.c
_GIVEN = ("user_id", "endpoint", "endpoint_hash", "keys_p256dh", "keys_auth", "expires_at")
_TYPES = {name: _column[name].type for name in _GIVEN} | {"possession": _column.renewed_from.type}
_CHANGING = ("keys_p256dh", "keys_auth", "expires_at")


def store(
    subscriptions: Sequence[tuple[str, Subscription]], vapid_key: str | None = None
) -> tuple[int, set[tuple[str, str]]]:
    """Store subscriptions of users, in one transaction; the result is the same as of one after the other.

    A subscription is left out if another user has its browser, if its browser has replaced it, and if its
    user has PUSH_MAX_SUBSCRIPTIONS_PER_USER others. A repeat writes nothing. `vapid_key` is the public key
    that they were made with; without it new rows have the current one. Sends no signals. Returns how many
    rows were written, and those that are stored now, as user ids and endpoints.
    """
    if not subscriptions:
        return 0, set()
    rows = [row_of(user_id, subscription) for user_id, subscription in subscriptions]
    options = {
        "limit": current_app.config["PUSH_MAX_SUBSCRIPTIONS_PER_USER"],
        "one_user": current_app.config["PUSH_BROWSER_HAS_ONE_USER"],
        "now": datetime.now(UTC),
        "given_key": vapid_key,
        "vapid_key": vapid_key or keys.signers().public_key,
    }
    with transaction(deadline_after(STORE_TIMEOUT)) as connection:
        lock(connection)
        written = sum(_insert(connection, group, options) for group in _independent(rows))
        if written == len(rows):
            return written, {(row["user_id"], row["endpoint"]) for row in rows}
        hashes = {row["endpoint_hash"] for row in rows}
        stored = select(_column.user_id, _column.endpoint).where(_column.endpoint_hash.in_(hashes))
        return written, {(user_id, endpoint) for user_id, endpoint in connection.execute(stored)}


def _independent(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Partition rows into groups with one row at most of a user and of an endpoint, in their order.

    A statement does not see its own rows: the next group's does.
    """
    groups: list[list[dict[str, Any]]] = []
    position: Counter[object] = Counter()
    for row in rows:
        user_id, endpoint = ("user", row["user_id"]), ("endpoint", row["endpoint_hash"])
        index = max(position[user_id], position[endpoint])
        position[user_id] = position[endpoint] = index + 1
        if index == len(groups):
            groups.append([])
        groups[index].append(row)
    return iter(groups)


def _insert(connection: Connection, rows: Sequence[dict[str, Any]], options: dict[str, Any]) -> int:
    if connection.dialect.name == "postgresql":
        arrays = {name: [row[name] for row in rows] for name in _TYPES}
        return connection.execute(_INSERT_ARRAYS, arrays | options).rowcount
    return connection.execute(_INSERT_ROW, [{**row, **options} for row in rows]).rowcount


def _statement(dialect: str, source: FromClause) -> Any:
    given = source.c
    is_own = _column.user_id == given.user_id
    same_endpoint = _column.endpoint_hash == given.endpoint_hash
    same_keys = and_(_column.keys_p256dh == given.keys_p256dh, _column.keys_auth == given.keys_auth)
    # Counts, not EXISTS: PostgreSQL would read the whole table once for all rows of a group.
    of_others = _count(same_endpoint, same_keys, ~is_own)
    replacements = _count(_column.renewed_from == given.possession)
    others = _count(is_own, ~same_endpoint)
    now = bindparam("now", type_=_column.created_at.type)
    key = bindparam("vapid_key", type_=_column.vapid_key.type)
    allowed = select(*(given[name] for name in _GIVEN), now, now, key).where(
        or_(~bindparam("one_user"), of_others == 0), replacements == 0, others < bindparam("limit")
    )
    insert = INSERTS[dialect](_table).from_select([*_GIVEN, "created_at", "updated_at", "vapid_key"], allowed)
    changing = {name: insert.excluded[name] for name in _CHANGING}
    changing["vapid_key"] = given_or_stored("given_key", _column.vapid_key)
    is_changed = or_(*(_column[name].is_distinct_from(value) for name, value in changing.items()))
    return insert.on_conflict_do_update(
        index_elements=["user_id", "endpoint_hash"],
        set_=changing | {"updated_at": insert.excluded.updated_at},
        where=is_changed,
    ).execution_options(preserve_rowcount=True)


def _count(*conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    return select(func.count()).select_from(_table).where(*conditions).scalar_subquery()


def _typed(name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=_TYPES[name]).label(name)


_arrays = func.unnest(*(bindparam(name, type_=ARRAY(type_)) for name, type_ in _TYPES.items()))
_INSERT_ARRAYS = _statement("postgresql", _arrays.table_valued(*_TYPES).render_derived())
_INSERT_ROW = _statement("sqlite", select(*map(_typed, _TYPES)).subquery())
