"""What deliveries tell of subscriptions: gone, failing, last sent; and the deletion of what is over."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Row,
    bindparam,
    delete,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)

from ..dialects import INSERTS, is_one_of
from ..models import PushFailure, PushSubscription
from . import events
from .clock import database_time

MAX_FAILURES = 3  # consecutive
MIN_FAILING_TIME = timedelta(days=1)
LAST_SENT_PRECISION = timedelta(minutes=1)
PRUNE_BATCH_SIZE = 1_000  # subscriptions a statement

_column = PushSubscription.__table__.c
_failure = PushFailure.__table__.c
_DELETE = delete(PushSubscription.__table__).returning(_column.id, _column.user_id)


def delete_gone(connection: Connection, recipients: Sequence[Row[Any]]) -> Sequence[Any]:
    """Delete subscriptions that a push service reports gone, except those updated meanwhile; return them."""
    if not recipients:
        return []
    versions = [(recipient.id, recipient.updated_at) for recipient in recipients]
    unchanged = tuple_(_column.id, _column.updated_at).in_(versions)
    return connection.execute(_DELETE.where(unchanged)).all()


def record_sent(connection: Connection, ids: Sequence[int], now: datetime) -> None:
    """Set when subscriptions were last sent to, to the minute: most broadcasts then write a row once."""
    if not ids:
        return
    is_older = or_(_column.last_sent_at.is_(None), _column.last_sent_at < now - LAST_SENT_PRECISION)
    rows = update(PushSubscription.__table__).where(is_one_of(connection, _column.id, ids), is_older)
    connection.execute(rows.values(last_sent_at=now))


def clear_failures(connection: Connection, ids: Sequence[int]) -> None:
    """Delete the failures of subscriptions that accepted a message."""
    if not ids:
        return
    connection.execute(
        delete(PushFailure.__table__).where(is_one_of(connection, _failure.subscription_id, ids))
    )


def record_failures(connection: Connection, ids: Sequence[int], now: datetime) -> Sequence[Any]:
    """Count a failure of each subscription; delete those over the failure limit, and return them."""
    if not ids:
        return []
    insert = INSERTS[connection.dialect.name](PushFailure.__table__)
    upsert = insert.on_conflict_do_update(
        index_elements=["subscription_id"], set_={"failures": _failure.failures + 1}
    )
    rows = [
        {"subscription_id": subscription_id, "failures": 1, "since": now} for subscription_id in sorted(ids)
    ]
    connection.execute(upsert, rows)
    exhausted = select(_failure.subscription_id).where(
        is_one_of(connection, _failure.subscription_id, ids),
        _failure.failures >= MAX_FAILURES,
        _failure.since < now - MIN_FAILING_TIME,
    )
    return connection.execute(_DELETE.where(_column.id.in_(exhausted))).all()


def _prune(row_id: ColumnElement[Any]) -> Executable:
    expired = (
        select(row_id)
        .select_from(PushSubscription.__table__)
        .where(_column.expires_at < bindparam("now"))
        .limit(PRUNE_BATCH_SIZE)
        .with_for_update(skip_locked=True)  # skip rows that a browser is updating
    )
    return _DELETE.where(row_id.in_(expired))


_PRUNE = {"postgresql": _prune(literal_column("ctid")), "sqlite": _prune(_column.id)}


def prune() -> int:
    """Delete the expired subscriptions of all users, and return how many."""
    pruned, deleted = 0, PRUNE_BATCH_SIZE
    while deleted == PRUNE_BATCH_SIZE:
        with events.recorded() as (connection, happened):
            statement = _PRUNE[connection.dialect.name]
            happened.extend(events.gone(connection.execute(statement, {"now": database_time(connection)})))
        deleted = len(happened)
        pruned += deleted
    return pruned


def delete_orphaned_failures(connection: Connection, after_id: int, limit: int) -> int | None:
    """Delete failures of deleted subscriptions, among the next `limit` after a subscription id.

    Returns the id to continue after, or None at the end.
    """
    next_ids = select(_failure.subscription_id).where(_failure.subscription_id > after_id)
    ids = connection.execute(next_ids.order_by(_failure.subscription_id).limit(limit)).scalars().all()
    existing = connection.execute(select(_column.id).where(is_one_of(connection, _column.id, ids))).scalars()
    missing = set(ids).difference(existing)
    connection.execute(
        delete(PushFailure.__table__).where(is_one_of(connection, _failure.subscription_id, missing))
    )
    return ids[-1] if ids else None
