"""Batches of recipients: fan out a message, cancel it, and what is due."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, literal_column, select, update

from ..database import autocommit
from ..models import MAX_ID, PushBatch, PushMessage
from ..webpush.responses import Result
from . import events, recipients
from .audience import Audience
from .clock import database_time
from .queue import BROADCAST_PRIORITY, DELIVER, DIRECT_PRIORITY, ScheduledBatch, enqueue
from .recipients import Position
from .recording import CANCELLED, add_counts

FAN_OUT_PENDING = 0  # the size of a row that stands for batches that do not exist yet

_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c
IS_PENDING = _batch.size == literal_column(str(FAN_OUT_PENDING))  # a constant, which the partial index needs


class Backlog(NamedTuple):
    """Due batches, and the recipients in them."""

    batches: int
    newest_id: int | None
    oldest_due_at: datetime | None
    subscriptions: int | None


def add_batches(
    connection: Connection, message_id: int, due_at: datetime, rows: Sequence[Mapping[str, Any]]
) -> list[ScheduledBatch]:
    """Insert batches of a message."""
    if not rows:
        return []
    common = {"message_id": message_id, "due_at": due_at}
    insert = PushBatch.__table__.insert().returning(_batch.id)
    # Few rows a statement: psycopg parses a long one slowly, each time.
    inserted = connection.execute(
        insert.execution_options(insertmanyvalues_page_size=10), [{**row, **common} for row in rows]
    )
    return [ScheduledBatch(row_id, due_at) for row_id in inserted.scalars()]


def add_pending(
    connection: Connection, message_id: int, due_at: datetime, last_id: int = MAX_ID
) -> ScheduledBatch:
    """Insert a row that `fan_out` replaces by batches, for subscriptions with ids up to `last_id`."""
    row = {"first_id": 0, "last_id": last_id, "size": FAN_OUT_PENDING, "subscription_ids": None}
    return add_batches(connection, message_id, due_at, [row])[0]


def fan_out(batch_id: int) -> Iterator[list[ScheduledBatch]]:
    """Create a message's batches incrementally, and yield them part by part.

    A part and its jobs are committed together, so an interrupted fan-out can be resumed.
    """
    while True:
        with events.recorded() as (connection, happened):
            part = _add_next_part(connection, batch_id, happened)
        if part is None:
            return
        yield part


def _add_next_part(
    connection: Connection, batch_id: int, happened: list[events.Event]
) -> list[ScheduledBatch] | None:
    # Locked, so that concurrent fan-outs of one message take turns, and `cancel` as well.
    of_batch = select(_batch.message_id).where(_batch.id == batch_id).scalar_subquery()
    message = connection.execute(
        select(_message.id, _message.user_id, _message.audience)
        .where(_message.id == of_batch)
        .with_for_update(key_share=True)
    ).one_or_none()
    pending = connection.execute(select(PushBatch.__table__).where(_batch.id == batch_id)).one_or_none()
    if pending is None or message is None:
        return None
    now = database_time(connection)
    audience = Audience.from_row(message.user_id, message.audience)
    # Recipients of a scheduled message are those that exist when it is due.
    last_id = recipients.newest_id(connection) if pending.last_id == MAX_ID else pending.last_id
    position = Position(pending.first_id, pending.after_user_id or "")
    part = recipients.next_part(connection, audience, now, position, last_id)
    counted = _message.recipients if pending.first_id else 0
    this_message = update(PushMessage.__table__).where(_message.id == message.id)
    connection.execute(this_message.values(recipients=counted + part.size))
    this_row = _batch.id == batch_id
    scheduled = add_batches(connection, message.id, now, part.batches)
    if part.next is None:
        connection.execute(delete(PushBatch.__table__).where(this_row))
        happened += events.done(connection, message.id)
    else:
        progress = {**part.next._asdict(), "last_id": last_id, "claimed_at": now}
        connection.execute(update(PushBatch.__table__).where(this_row).values(progress))
    enqueue(connection, DELIVER, scheduled, priority_of(audience))
    return scheduled


def priority_of(audience: Audience) -> int:
    """Return the priority of an audience's jobs."""
    return DIRECT_PRIORITY if audience.is_direct else BROADCAST_PRIORITY


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
    deleted = connection.execute(
        delete(PushBatch.__table__)
        .where(_batch.message_id == message_id, IS_PENDING | _batch.claimed_at.is_(None))
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
