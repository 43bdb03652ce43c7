"""Who gets a message: subscriptions a slice at a time, and which of them to give up."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, or_, select, tuple_

from .extensions import INSERTS
from .models import PushFailure, PushSubscription

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


def ranges(connection: Connection, user_id: str | None) -> list[Range]:
    """Cut a user's subscriptions, or everyone's, into ranges of at most SLICE_SIZE.

    The database does the cutting, whatever their number: their ids are not read.
    """
    numbered = (
        select(_column.id, ((func.row_number().over(order_by=_column.id) - 1) // SLICE_SIZE).label("slice"))
        .where(_reachable(user_id))
        .subquery()
    )
    cut = (
        select(func.min(numbered.c.id), func.max(numbered.c.id), func.count())
        .group_by(numbered.c.slice)
        .order_by(numbered.c.slice)
    )
    return [Range(*row) for row in connection.execute(cut)]


def count(connection: Connection, user_id: str | None) -> int:
    """Return how many subscriptions a message to a user, or to everyone, goes to."""
    return connection.execute(select(func.count(_column.id)).where(_reachable(user_id))).scalar_one()


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


def forget_failures(connection: Connection) -> None:
    """Forget the failures of subscriptions that are no longer there."""
    there = select(_column.id).where(_column.id == _failure.subscription_id)
    connection.execute(delete(PushFailure.__table__).where(~there.exists()))


def _reachable(user_id: str | None) -> ColumnElement[bool]:
    alive = or_(_column.expires_at.is_(None), _column.expires_at > datetime.now(UTC))
    return alive if user_id is None else and_(alive, _column.user_id == user_id)
