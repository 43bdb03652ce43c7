"""Batches of recipients: fan out a message, cancel it, and what is due."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, select, update

from ..database import autocommit, transaction
from ..models import PushBatch, PushMessage
from ..webpush.responses import Result
from . import audience
from .clock import database_time
from .queue import BROADCAST_PRIORITY, DELIVER, ScheduledBatch, enqueue
from .recording import CANCELLED, add_counts

FAN_OUT_PENDING = 0  # the size of a row that stands for batches that do not exist yet
FAN_OUT_CHUNK = 10 * audience.BATCH_SIZE  # recipients a transaction

_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c


class Backlog(NamedTuple):
    """Due batches, and the recipients in them."""

    batches: int
    newest_id: int | None
    oldest_due_at: datetime | None
    subscriptions: int | None


def add_batch(connection: Connection, message_id: int, due_at: datetime, **values: Any) -> ScheduledBatch:
    """Insert a batch of a message."""
    insert = PushBatch.__table__.insert().values(message_id=message_id, due_at=due_at, **values)
    return ScheduledBatch(connection.execute(insert.returning(_batch.id)).scalar_one(), due_at)


def fan_out(batch_id: int) -> Iterator[list[ScheduledBatch]]:
    """Create a broadcast's batches incrementally, and yield them; the last list is empty.

    A chunk and its jobs are committed together, so an interrupted fan-out can be resumed.
    """
    chunk = None
    while chunk != []:
        with transaction() as connection:
            chunk = _next_batches(connection, batch_id)
            enqueue(connection, DELIVER, chunk, BROADCAST_PRIORITY)
        yield chunk


def _next_batches(connection: Connection, batch_id: int) -> list[ScheduledBatch]:
    # Locked, so that concurrent fan-outs of one message take turns, and `cancel` as well.
    of_batch = select(_batch.message_id).where(_batch.id == batch_id).scalar_subquery()
    connection.execute(select(_message.id).where(_message.id == of_batch).with_for_update(key_share=True))
    pending = connection.execute(select(PushBatch.__table__).where(_batch.id == batch_id)).one_or_none()
    if pending is None:
        return []
    now = database_time(connection)
    found = audience.ranges(
        connection, None, first_id=pending.first_id, last_id=pending.last_id, limit=FAN_OUT_CHUNK
    )
    counted = _message.recipients if pending.first_id else 0
    added = sum(one_range.size for one_range in found)
    of_message = _message.id == pending.message_id
    connection.execute(update(PushMessage.__table__).where(of_message).values(recipients=counted + added))
    if not found:
        connection.execute(delete(PushBatch.__table__).where(_batch.id == batch_id))
        return []
    progress = {"first_id": found[-1].last_id + 1, "claimed_at": now}
    connection.execute(update(PushBatch.__table__).where(_batch.id == batch_id).values(progress))
    common = {"message_id": pending.message_id, "attempts": 0, "due_at": now, "subscription_ids": None}
    rows = connection.execute(
        PushBatch.__table__.insert().returning(_batch.id),
        [one_range._asdict() | common for one_range in found],
    )
    return [ScheduledBatch(row_id, now) for row_id in rows.scalars()]


def cancel(connection: Connection, message_id: int) -> None:
    """Cancel a message: what no worker has claimed is not sent, and counts as cancelled now.

    Workers that are sending the message notice within two seconds. What was tried before, and would be
    retried, has failed: what is counted as cancelled was never sent.
    """
    not_yet = (_message.id == message_id) & _message.cancelled_at.is_(None)
    cancelled = connection.execute(
        update(PushMessage.__table__)
        .where(not_yet)
        .values(cancelled_at=database_time(connection))
        .returning(_message.recipients)
    ).one_or_none()
    if cancelled is None:
        return
    is_pending = _batch.size == FAN_OUT_PENDING
    deleted = connection.execute(
        delete(PushBatch.__table__)
        .where(_batch.message_id == message_id, is_pending | _batch.claimed_at.is_(None))
        .returning(_batch.size, _batch.attempts, _batch.first_id)
    )
    counts: Counter[tuple[str, str]] = Counter()
    for size, attempts, first_id in deleted:
        is_uncounted = size == FAN_OUT_PENDING and not first_id
        number = cancelled.recipients if is_uncounted else size
        counts["", Result.FAILED.value if attempts else CANCELLED] += number
    add_counts(connection, message_id, +counts)


def backlog() -> Backlog:
    """Return what is due now."""
    with autocommit() as connection:
        due = select(func.count(), func.max(_batch.id), func.min(_batch.due_at), func.sum(_batch.size))
        row = connection.execute(due.where(_batch.due_at <= database_time(connection))).one()
    return Backlog(*row)
