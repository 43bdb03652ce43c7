"""Every query on the table: save, remove, list, count, prune. The owner's id stands in every WHERE."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flask import current_app
from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Row,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    not_,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from .database import autocommit, deadline, transaction
from .models import ENDPOINT_DIGEST, PushSubscription

# Of a user id and an endpoint together: PostgreSQL's index rows end at 2,704, and until revision 0004 there
# is an index of both.
MAX_INDEXED_BYTES = 2_680
PRUNE_SLICE = 1_000  # rows a statement
LOCK = 0x70757368  # "push": one advisory lock for the rare writes that touch several rows


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a browser says of itself: the parts of its `PushSubscription` that we keep."""

    endpoint: str
    p256dh: str
    auth: str
    expires_at: datetime | None = None


class EndpointTooLongError(ValueError):
    """The user's id and the endpoint do not fit into the index together."""


# The statements, made once: building one anew costs more than running it. Their parameters carry the
# names of the columns, so that one mapping serves them all.
_table = PushSubscription.__table__
_column = _table.c
_own = _column.user_id == bindparam("user_id")
_this_endpoint = _column.endpoint == bindparam("endpoint")
_same_browser = and_(
    _this_endpoint,
    _column.keys_p256dh == bindparam("keys_p256dh"),
    _column.keys_auth == bindparam("keys_auth"),
)
_this_row = and_(_same_browser, _column.expires_at.is_not_distinct_from(bindparam("expires_at")))
_same_browser_elsewhere = and_(_same_browser, _column.user_id != bindparam("user_id"))

_COUNT = select(func.count()).select_from(_table).where(_own)
_LOOK = select(
    func.count(),
    func.count().filter(not_(_this_endpoint)),
    func.count().filter(_this_row),
    exists().where(_same_browser_elsewhere).correlate(None),
).where(_own)
_LIST = (
    select(_column.id, _column.endpoint, _column.created_at, _column.expires_at)
    .where(_own)
    .order_by(_column.id)
)
_REMOVE = delete(_table).where(_own, _this_endpoint)
_REMOVE_BY_ID = delete(_table).where(_own, _column.id == bindparam("id"))
_REMOVE_ELSEWHERE = delete(_table).where(_same_browser_elsewhere)
_REMOVE_OLDEST = delete(_table).where(
    _own,
    not_(_this_endpoint),
    _column.id.not_in(
        select(_column.id)
        .where(_own, not_(_this_endpoint))
        .order_by(_column.updated_at.desc(), _column.id.desc())
        .limit(bindparam("limit"))
    ),
)


def _upsert(insert: Callable[..., Any], same_row: Sequence[str | ColumnElement[Any]]) -> Executable:
    row = insert(_table)
    renewed = ("keys_p256dh", "keys_auth", "expires_at", "updated_at")
    updates = {name: row.excluded[name] for name in renewed}
    statement: Executable = row.on_conflict_do_update(index_elements=same_row, set_=updates)
    return statement


def _prune(place: ColumnElement[Any]) -> Executable:
    expired = (
        select(place)
        .select_from(_table)
        .where(_column.expires_at < bindparam("now"))
        .limit(PRUNE_SLICE)
        .with_for_update(skip_locked=True)  # its browser may be renewing it just now
    )
    return delete(_table).where(place.in_(expired))


_UPSERT = {
    "postgresql": _upsert(postgresql.insert, ["user_id", ENDPOINT_DIGEST]),
    "sqlite": _upsert(sqlite.insert, ["user_id", "endpoint"]),
}
_PRUNE = {"postgresql": _prune(literal_column("ctid")), "sqlite": _prune(_column.id)}


class _Standing(NamedTuple):
    """How things stand before or after a write."""

    total: int  # the user's rows
    others: int  # those for other endpoints
    saved: bool  # whether this very row is among them
    elsewhere: bool  # whether the browser must move here from another user


def save(user_id: str, subscription: Subscription) -> int:
    """Keep a user's subscription; the same endpoint again is the same row. Return the user's count.

    A repeat of what is kept writes nothing. A new row is one INSERT, which alone decides when several
    requests race; a look after each write, since only what is committed can be seen, finds the rare
    cases that touch other rows: the user is over the limit, or the browser has changed hands.

    Raises EndpointTooLongError.
    """
    if len(user_id.encode()) + len(subscription.endpoint) > MAX_INDEXED_BYTES:
        raise EndpointTooLongError
    limit = current_app.config["PUSH_MAX_SUBSCRIPTIONS_PER_USER"]
    row = _row(user_id, subscription)
    until = deadline()
    with autocommit(until) as connection:
        standing = _look(connection, row)
        if not standing.saved and not standing.elsewhere and standing.others < limit:
            connection.execute(_UPSERT[connection.dialect.name], row)
            standing = _look(connection, row)
    settled = standing.saved and not standing.elsewhere and standing.total <= limit
    while not settled:
        _settle(row, limit, until)
        with autocommit(until) as connection:
            standing = _look(connection, row)
        # No longer saved means that a later request has taken the browser or changed its keys.
        settled = standing.total <= limit and not (standing.saved and standing.elsewhere)
    return standing.total


def remove(user_id: str, endpoint: str) -> int:
    """Forget a user's subscription by its endpoint, if it is there, and return the user's count."""
    with autocommit() as connection:
        connection.execute(_REMOVE, {"user_id": user_id, "endpoint": endpoint})
        return connection.execute(_COUNT, {"user_id": user_id}).scalar_one()


def remove_by_id(user_id: str, id: int) -> bool:
    """Forget a user's subscription by its id, and say whether it was there."""
    with autocommit() as connection:
        return connection.execute(_REMOVE_BY_ID, {"user_id": user_id, "id": id}).rowcount > 0


def list_of(user_id: str) -> Sequence[Row[Any]]:
    """Return a user's subscriptions, oldest first: id, endpoint, created_at, expires_at."""
    with autocommit() as connection:
        return connection.execute(_LIST, {"user_id": user_id}).all()


def prune() -> int:
    """Forget the subscriptions of all users that have expired, and return how many."""
    pruned, gone = 0, PRUNE_SLICE
    while gone == PRUNE_SLICE:
        with autocommit() as connection:
            gone = connection.execute(_PRUNE[connection.dialect.name], {"now": datetime.now(UTC)}).rowcount
        pruned += gone
    return pruned


def _row(user_id: str, subscription: Subscription) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "user_id": user_id,
        "endpoint": subscription.endpoint,
        "keys_p256dh": subscription.p256dh,
        "keys_auth": subscription.auth,
        "expires_at": subscription.expires_at,
        "created_at": now,
        "updated_at": now,
    }


def _look(connection: Connection, row: Mapping[str, Any]) -> _Standing:
    total, others, saved, elsewhere = connection.execute(_LOOK, row).one()
    moves = current_app.config["PUSH_BROWSER_HAS_ONE_USER"]
    return _Standing(total, others, saved > 0, bool(elsewhere) and moves)


def _settle(row: Mapping[str, Any], limit: int, until: float) -> None:
    with transaction(until) as connection:
        # Several rows, some of other users: one at a time, or two could wait for each other. On SQLite
        # the first write takes the lock of the whole file.
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        connection.execute(_UPSERT[connection.dialect.name], row)
        if current_app.config["PUSH_BROWSER_HAS_ONE_USER"]:
            connection.execute(_REMOVE_ELSEWHERE, row)
        connection.execute(_REMOVE_OLDEST, {**row, "limit": limit - 1})
