"""Every query on the table: save, remove, list, count, prune. The owner's id stands in every WHERE."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import current_app
from sqlalchemy import ColumnElement, Connection, Row, and_, case, delete, exists, func, select
from sqlalchemy.dialects import postgresql, sqlite

from .extensions import engine
from .models import PushSubscription

MAX_INDEXED_BYTES = 2_680  # of a user id and an endpoint together: PostgreSQL's index rows end at 2,704
PRUNE_SLICE = 1_000  # rows a statement
LOCK = 0x70757368  # "push": one advisory lock for the rare writes that touch several rows

_table = PushSubscription.__table__
_columns = _table.c


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a browser says of itself: the parts of its `PushSubscription` that we keep."""

    endpoint: str
    p256dh: str
    auth: str
    expires_at: datetime | None = None


class EndpointTooLongError(ValueError):
    """The user's id and the endpoint do not fit into the index together."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """How things stand before or after a write."""

    count: int  # the user's rows
    others: int  # those for other endpoints
    saved: bool  # whether this very row is among them
    elsewhere: bool  # whether another user has the same browser


def save(user_id: str, subscription: Subscription) -> int:
    """Keep a user's subscription; the same endpoint again is the same row. Return the user's count.

    A repeat of what is kept writes nothing. A new row is one INSERT, which alone decides when several
    requests race; a second look then finds the rare cases that touch other rows: the user is over the
    limit, or the browser has changed hands.

    Raises EndpointTooLongError.
    """
    if len(user_id.encode()) + len(subscription.endpoint) > MAX_INDEXED_BYTES:
        raise EndpointTooLongError
    limit = current_app.config["PUSH_MAX_SUBSCRIPTIONS_PER_USER"]
    with _autocommit() as connection:
        standing = _look(connection, user_id, subscription)
        if not standing.saved and not standing.elsewhere and standing.others < limit:
            _upsert(connection, user_id, subscription)
            standing = _look(connection, user_id, subscription)
    if standing.saved and not standing.elsewhere and standing.count <= limit:
        return standing.count
    return _settle(user_id, subscription, limit)


def remove(user_id: str, endpoint: str) -> int:
    """Forget a user's subscription by its endpoint, if it is there, and return the user's count."""
    with _autocommit() as connection:
        connection.execute(delete(_table).where(_columns.user_id == user_id, _columns.endpoint == endpoint))
        return _count(connection, user_id)


def remove_by_id(user_id: str, id: int) -> bool:
    """Forget a user's subscription by its id, and say whether it was there."""
    with _autocommit() as connection:
        gone = connection.execute(delete(_table).where(_columns.user_id == user_id, _columns.id == id))
        return gone.rowcount > 0


def list_of(user_id: str) -> Sequence[Row[Any]]:
    """Return a user's subscriptions, oldest first: id, endpoint, created_at, expires_at."""
    with _autocommit() as connection:
        return connection.execute(
            select(_columns.id, _columns.endpoint, _columns.created_at, _columns.expires_at)
            .where(_columns.user_id == user_id)
            .order_by(_columns.id)
        ).all()


def prune() -> int:
    """Forget the subscriptions of all users that have expired, and return how many."""
    expired = (
        select(_columns.id)
        .where(_columns.expires_at < datetime.now(UTC))
        .limit(PRUNE_SLICE)
        .with_for_update(skip_locked=True)  # its browser may be renewing it just now
    )
    pruned = 0
    with _autocommit() as connection:
        while gone := connection.execute(delete(_table).where(_columns.id.in_(expired))).rowcount:
            pruned += gone
    return pruned


@contextmanager
def _autocommit() -> Iterator[Connection]:
    # Each statement is its own transaction: no BEGIN and no COMMIT to wait for.
    with engine().connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def _one_at_a_time() -> Iterator[Connection]:
    # Several rows, some of other users, in one transaction: one at a time, or two could wait for each
    # other. On SQLite the first write takes the lock of the whole file.
    with engine().connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="READ COMMITTED")
            connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
        yield connection
        connection.commit()


def _settle(user_id: str, subscription: Subscription, limit: int) -> int:
    with _one_at_a_time() as connection:
        _upsert(connection, user_id, subscription)
        if current_app.config["PUSH_BROWSER_HAS_ONE_USER"]:
            connection.execute(delete(_table).where(_same_browser_elsewhere(user_id, subscription)))
        others = and_(_columns.user_id == user_id, _columns.endpoint != subscription.endpoint)
        kept = (
            select(_columns.id)
            .where(others)
            .order_by(_columns.updated_at.desc(), _columns.id.desc())
            .limit(limit - 1)
        )
        connection.execute(delete(_table).where(others, _columns.id.not_in(kept)))
        return _count(connection, user_id)


def _look(connection: Connection, user_id: str, subscription: Subscription) -> _Standing:
    this_endpoint = _columns.endpoint == subscription.endpoint
    this_row = and_(
        this_endpoint,
        _columns.keys_p256dh == subscription.p256dh,
        _columns.keys_auth == subscription.auth,
        _columns.expires_at.is_not_distinct_from(subscription.expires_at),
    )
    query = select(func.count(), func.count(case((this_endpoint, 1))), func.count(case((this_row, 1)))).where(
        _columns.user_id == user_id
    )
    if current_app.config["PUSH_BROWSER_HAS_ONE_USER"]:
        query = query.add_columns(exists().where(_same_browser_elsewhere(user_id, subscription)))
    row = connection.execute(query).one()
    count, of_endpoint, saved = row[:3]
    return _Standing(count, count - of_endpoint, saved > 0, elsewhere=any(row[3:]))


def _same_browser_elsewhere(user_id: str, subscription: Subscription) -> ColumnElement[bool]:
    return and_(
        _columns.endpoint == subscription.endpoint,
        _columns.keys_p256dh == subscription.p256dh,
        _columns.keys_auth == subscription.auth,
        _columns.user_id != user_id,
    )


def _upsert(connection: Connection, user_id: str, subscription: Subscription) -> None:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    now = datetime.now(UTC)
    row = insert(_table).values(
        user_id=user_id,
        endpoint=subscription.endpoint,
        keys_p256dh=subscription.p256dh,
        keys_auth=subscription.auth,
        expires_at=subscription.expires_at,
        created_at=now,
        updated_at=now,
    )
    new = row.excluded
    connection.execute(
        row.on_conflict_do_update(
            index_elements=["user_id", "endpoint"],
            set_={
                "keys_p256dh": new.keys_p256dh,
                "keys_auth": new.keys_auth,
                "expires_at": new.expires_at,
                "updated_at": new.updated_at,
            },
        )
    )


def _count(connection: Connection, user_id: str) -> int:
    return connection.execute(
        select(func.count()).select_from(_table).where(_columns.user_id == user_id)
    ).scalar_one()
