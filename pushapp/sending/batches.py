"""Batches of recipients: fan out a message, load a batch, record its outcomes."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, func, select, update

from ..database import autocommit, transaction
from ..extensions import INSERTS
from ..models import MAX_ID, PushBatch, PushMessage, PushOutcome
from ..webpush.endpoints import origin_of
from ..webpush.message import Message
from ..webpush.responses import Counted, Outcome, Result
from . import failures, recipients
from .audience import Audience
from .queue import BROADCAST_PRIORITY, DELIVER, DIRECT_PRIORITY, ScheduledBatch, enqueue
from .recipients import Position

INITIAL_BACKOFF = 2  # seconds; doubled with each attempt
MAX_BACKOFF = 60 * 60  # seconds
FAN_OUT_PENDING = 0  # the size of a row that stands for batches that do not exist yet

_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c
_outcome = PushOutcome.__table__.c


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch, its message, and those of its recipients that still exist."""

    id: int
    message_id: int
    message: Message
    created_at: datetime
    audience: Audience
    size: int
    attempts: int
    recipients: Sequence[Row[Any]]


class Backlog(NamedTuple):
    """Due batches, and the recipients in them."""

    batches: int
    newest_id: int | None
    oldest_due_at: datetime | None
    subscriptions: int | None


def add_pending(
    connection: Connection, message_id: int, due_at: datetime, last_id: int = MAX_ID
) -> ScheduledBatch:
    """Insert a row that `fan_out` replaces by batches, for subscriptions with ids up to `last_id`."""
    row = {"first_id": 0, "last_id": last_id, "size": FAN_OUT_PENDING, "subscription_ids": None}
    return add_batches(connection, message_id, due_at, [row])[0]


def add_batches(
    connection: Connection, message_id: int, due_at: datetime, rows: Sequence[Mapping[str, Any]]
) -> list[ScheduledBatch]:
    """Insert batches of a message."""
    if not rows:
        return []
    common = {"message_id": message_id, "attempts": 0, "due_at": due_at}
    inserted = connection.execute(
        PushBatch.__table__.insert().returning(_batch.id), [{**row, **common} for row in rows]
    )
    return [ScheduledBatch(row_id, due_at) for row_id in inserted.scalars()]


def fan_out(batch_id: int) -> Iterator[list[ScheduledBatch]]:
    """Create a message's batches incrementally, and yield them part by part.

    A part and its jobs are committed together, so an interrupted fan-out can be resumed.
    """
    part: list[ScheduledBatch] | None = []
    while part is not None:
        with transaction() as connection:
            part = _add_next_part(connection, batch_id)
        yield part or []


def _add_next_part(connection: Connection, batch_id: int) -> list[ScheduledBatch] | None:
    # The row lock makes concurrent fan-outs of one message take turns.
    pending = connection.execute(
        select(PushBatch.__table__).where(_batch.id == batch_id).with_for_update()
    ).one_or_none()
    if pending is None:
        return None
    message = connection.execute(
        select(_message.user_id, _message.audience).where(_message.id == pending.message_id)
    ).one()
    audience = Audience.from_row(*message)
    # Recipients of a scheduled message are those that exist when it is due.
    last_id = recipients.newest_id(connection) if pending.last_id == MAX_ID else pending.last_id
    position = Position(pending.first_id, pending.after_user_id or "")
    part = recipients.next_part(connection, audience, position, last_id)
    counted = _message.recipients if pending.first_id else 0
    of_message = update(PushMessage.__table__).where(_message.id == pending.message_id)
    connection.execute(of_message.values(recipients=counted + part.size))
    this_row = _batch.id == batch_id
    if part.next is None:
        connection.execute(delete(PushBatch.__table__).where(this_row))
    else:
        progress = {**part.next._asdict(), "last_id": last_id}
        connection.execute(update(PushBatch.__table__).where(this_row).values(progress))
    scheduled = add_batches(connection, pending.message_id, datetime.now(UTC), part.batches)
    enqueue(connection, DELIVER, scheduled, priority_of(audience))
    return scheduled


def priority_of(audience: Audience) -> int:
    """Return the priority of an audience's jobs."""
    return DIRECT_PRIORITY if audience.is_direct else BROADCAST_PRIORITY


def cancel(connection: Connection, message_id: int) -> None:
    """Cancel a message: what no worker has claimed is not sent, and counts as cancelled now."""
    not_yet = (_message.id == message_id) & _message.cancelled_at.is_(None)
    cancelled = connection.execute(
        update(PushMessage.__table__)
        .where(not_yet)
        .values(cancelled_at=datetime.now(UTC))
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
        counts["", Result.FAILED.value if attempts else "cancelled"] += number
    _add_counts(connection, message_id, +counts)


def load_batch(batch_id: int) -> Batch | None:
    """Return a batch; None if its outcomes are recorded."""
    with autocommit() as connection:
        row = connection.execute(
            select(
                PushBatch.__table__,
                _message.message,
                _message.user_id,
                _message.audience,
                func.coalesce(_message.send_at, _message.created_at).label("created_at"),
            )
            .join(PushMessage.__table__)
            .where(_batch.id == batch_id)
        ).one_or_none()
        if row is None:
            return None
        audience = Audience.from_row(row.user_id, row.audience)
        found = recipients.load(connection, audience, row.first_id, row.last_id, row.subscription_ids)
    return Batch(
        id=batch_id,
        message_id=row.message_id,
        message=Message.from_dict(row.message),
        created_at=row.created_at,
        audience=audience,
        size=row.size,
        attempts=row.attempts,
        recipients=found,
    )


def record_outcomes(
    connection: Connection, batch: Batch, outcomes: Sequence[Outcome], retry_until: datetime
) -> tuple[Counter[str], list[ScheduledBatch]]:
    """Record a batch's outcomes, once; return their counts, and the batches to retry.

    A retry that would be later than `retry_until` is a failure.
    """
    if not connection.execute(delete(PushBatch.__table__).where(_batch.id == batch.id)).rowcount:
        return Counter(), []  # already recorded by another worker
    retries = _plan_retries(batch, outcomes, retry_until)
    retried_ids = {subscription_id for retry in retries for subscription_id in retry.ids}
    by_result = _group_by_result(batch, outcomes, retried_ids)
    pairs = zip(batch.recipients, outcomes, strict=True)
    failed_ids = [
        recipient.id
        for recipient, outcome in pairs
        if outcome.result is Result.FAILED and outcome.counts_against is Counted.SUBSCRIPTION
    ]
    sent_ids = [recipient.id for recipient in by_result[Result.SENT]]
    failures.record_sent(connection, sent_ids)
    failures.clear_failures(connection, sent_ids)
    failures.record_failures(connection, failed_ids)
    failures.delete_gone(connection, by_result[Result.GONE])
    counts = _count(batch, by_result)
    _add_counts(connection, batch.message_id, counts)
    scheduled = [_add_retry(connection, batch, retry) for retry in retries]
    enqueue(connection, DELIVER, scheduled, priority_of(batch.audience))
    totals: Counter[str] = Counter()
    for (_, result), number in counts.items():
        totals[result] += number
    return totals, scheduled


def backlog() -> Backlog:
    """Return what is due now."""
    with autocommit() as connection:
        due = select(func.count(), func.max(_batch.id), func.min(_batch.due_at), func.sum(_batch.size))
        row = connection.execute(due.where(_batch.due_at <= datetime.now(UTC))).one()
    return Backlog(*row)


class _Retry(NamedTuple):
    ids: list[int]
    due_at: datetime


def _plan_retries(batch: Batch, outcomes: Sequence[Outcome], retry_until: datetime) -> list[_Retry]:
    # One retry a push service: each backs off on its own.
    ids: dict[str, list[int]] = defaultdict(list)
    delays: dict[str, float] = defaultdict(float)
    jitter = random.uniform(0.5, 1.5)  # noqa: S311  # not a secret
    backoff = min(INITIAL_BACKOFF * 2**batch.attempts, MAX_BACKOFF) * jitter
    for recipient, outcome in zip(batch.recipients, outcomes, strict=True):
        if outcome.result is Result.RETRY:
            host = _host(recipient.endpoint)
            ids[host].append(recipient.id)
            delays[host] = max(delays[host], backoff, outcome.retry_after or 0)
    now = datetime.now(UTC)
    retries = [_Retry(ids[host], now + timedelta(seconds=delays[host])) for host in ids]
    return [retry for retry in retries if retry.due_at < retry_until]


def _add_retry(connection: Connection, batch: Batch, retry: _Retry) -> ScheduledBatch:
    row = {
        "first_id": retry.ids[0],
        "last_id": retry.ids[-1],
        "size": len(retry.ids),
        "subscription_ids": retry.ids,
        "message_id": batch.message_id,
        "due_at": retry.due_at,
        "attempts": batch.attempts + 1,
    }
    insert = PushBatch.__table__.insert().values(row).returning(_batch.id)
    return ScheduledBatch(connection.execute(insert).scalar_one(), retry.due_at)


def _group_by_result(
    batch: Batch, outcomes: Sequence[Outcome], retried_ids: set[int]
) -> Mapping[Result, list[Row[Any]]]:
    by_result: dict[Result, list[Row[Any]]] = defaultdict(list)
    for recipient, outcome in zip(batch.recipients, outcomes, strict=True):
        retries_exhausted = outcome.result is Result.RETRY and recipient.id not in retried_ids
        by_result[Result.FAILED if retries_exhausted else outcome.result].append(recipient)
    return by_result


def _count(batch: Batch, by_result: Mapping[Result, list[Row[Any]]]) -> Counter[tuple[str, str]]:
    """Count the outcomes by push service; a deleted subscription's is unknown."""
    counts = Counter(
        (_host(recipient.endpoint), result.value)
        for result, recipients in by_result.items()
        for recipient in recipients
    )
    if missing := batch.size - len(batch.recipients):
        counts["", Result.GONE.value] += missing
    return counts


def _add_counts(connection: Connection, message_id: int, counts: Counter[tuple[str, str]]) -> None:
    insert = INSERTS[connection.dialect.name](PushOutcome.__table__)
    upsert = insert.on_conflict_do_update(
        index_elements=["message_id", "push_service", "outcome"],
        set_={"count": _outcome.count + insert.excluded.count},
    )
    rows = [
        {"message_id": message_id, "push_service": host, "outcome": result, "count": number}
        for (host, result), number in sorted(counts.items())  # consistent lock order: no deadlock
        if result != Result.RETRY
    ]
    if rows:
        connection.execute(upsert, rows)


def _host(endpoint: str) -> str:
    return origin_of(endpoint).host
