"""Who gets a message: subscriptions a slice at a time, and which of them to give up."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, or_, select, tuple_

from .extensions import INSERTS
from .models import MAX_ID, PushFailure, PushSubscription

SLICE_SIZE = 250
MAX_FAILURES = 3  # in a row
MIN_FAILING_TIME = timedelta(days=1)

_column = PushSubscription.__table__.c
_failure = PushFailure.__table__.c


class Range(NamedTuple):
    """Subscriptions whose ids lie between two, both included."""

    first_id: int
    last_id: int
    size: int


def newest_id(connection: Connection) -> int:
    """Return the highest id there is, or 0."""
    return connection.execute(select(func.max(_column.id))).scalar() or 0


def ranges(
    connection: Connection,
    user_id: str | None,
    *,
    first_id: int = 0,
    last_id: int = MAX_ID,
    limit: int | None = None,
) -> list[Range]:
    """Cut a user's subscriptions, or everyone's, into ranges of at most SLICE_SIZE; no more than `limit`.

    The database does the cutting: their ids are not read.
    """
    reached = (
        select(_column.id)
        .where(_reachable(user_id), _column.id.between(first_id, last_id))
        .order_by(_column.id)
        .limit(limit)
        .subquery()
    )
    number = func.row_number().over(order_by=reached.c.id) - 1
    numbered = select(reached.c.id, (number // SLICE_SIZE).label("slice")).subquery()
    cut = (
        select(func.min(numbered.c.id), func.max(numbered.c.id), func.count())
        .group_by(numbered.c.slice)
        .order_by(numbered.c.slice)
    )
    return [Range(*row) for row in connection.execute(cut)]


def load(
    connection: Connection, user_id: str | None, first_id: int, last_id: int, ids: Sequence[int] | None
) -> Sequence[Any]:
    """Return what delivery needs to know of those subscriptions that are still there and the user's."""
    chosen = _column.id.between(first_id, last_id) if ids is None else _column.id.in_(ids)
    return connection.execute(
        select(_column.id, _column.endpoint, _column.keys_p256dh, _column.keys_auth, _column.updated_at)
        .where(chosen, _reachable(user_id))
        .order_by(_column.id)
    ).all()


def forget_gone(connection: Connection, rows: Sequence[Row[Any]]) -> None:
    """Forget subscriptions that a push service says are gone, but not one that was renewed meanwhile."""
    if rows:
        unchanged = tuple_(_column.id, _column.updated_at).in_([(row.id, row.updated_at) for row in rows])
        connection.execute(delete(PushSubscription.__table__).where(unchanged))


def note_success(connection: Connection, ids: Sequence[int]) -> None:
    """Forget the failures of subscriptions that took a message."""
    if not ids:
        return
    # Failures are rare: mostly this question, which is the same for every slice, is all.
    near = _failure.subscription_id.between(min(ids), max(ids))
    failed = set(connection.execute(select(_failure.subscription_id).where(near)).scalars())
    if forgiven := failed.intersection(ids):
        connection.execute(delete(PushFailure.__table__).where(_failure.subscription_id.in_(forgiven)))


def note_failures(connection: Connection, ids: Sequence[int]) -> None:
    """Count a failure of each subscription; forget those that have failed too often for too long."""
    if not ids:
        return
    now = datetime.now(UTC)
    row = INSERTS[connection.dialect.name](PushFailure.__table__)
    row = row.on_conflict_do_update(
        index_elements=["subscription_id"], set_={"failures": _failure.failures + 1}
    )
    connection.execute(row, [{"subscription_id": id, "failures": 1, "since": now} for id in sorted(ids)])
    hopeless = select(_failure.subscription_id).where(
        _failure.subscription_id.in_(ids),
        _failure.failures >= MAX_FAILURES,
        _failure.since < now - MIN_FAILING_TIME,
    )
    connection.execute(delete(PushSubscription.__table__).where(_column.id.in_(hopeless)))


def forget_failures(connection: Connection, after_id: int, limit: int) -> int | None:
    """Forget the failures of subscriptions that are no longer there, among the next `limit` after an id.

    Returns the id to go on after, or None when none is left.
    """
    next_ids = select(_failure.subscription_id).where(_failure.subscription_id > after_id)
    ids = connection.execute(next_ids.order_by(_failure.subscription_id).limit(limit)).scalars().all()
    there = connection.execute(select(_column.id).where(_column.id.in_(ids))).scalars()
    vanished = set(ids).difference(there)
    connection.execute(delete(PushFailure.__table__).where(_failure.subscription_id.in_(vanished)))
    return ids[-1] if ids else None


def _reachable(user_id: str | None) -> ColumnElement[bool]:
    alive = or_(_column.expires_at.is_(None), _column.expires_at > datetime.now(UTC))
    return alive if user_id is None else and_(alive, _column.user_id == user_id)
