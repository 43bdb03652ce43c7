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
from ..models import PushBatch, PushMessage, PushOutcome
from ..webpush.endpoints import origin_of
from ..webpush.message import Message
from ..webpush.responses import Counted, Outcome, Result
from . import audience
from .queue import BROADCAST_PRIORITY, DELIVER, DIRECT_PRIORITY, ScheduledBatch, enqueue

INITIAL_BACKOFF = 2  # seconds; doubled with each attempt
MAX_BACKOFF = 60 * 60  # seconds
FAN_OUT_PENDING = 0  # the size of a row that stands for batches that do not exist yet
FAN_OUT_CHUNK = 10 * audience.BATCH_SIZE  # recipients a transaction

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
    user_id: str | None
    size: int
    attempts: int
    recipients: Sequence[Row[Any]]


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
    # The row lock makes concurrent fan-outs of one message take turns.
    pending = connection.execute(
        select(PushBatch.__table__).where(_batch.id == batch_id).with_for_update()
    ).one_or_none()
    if pending is None:
        return []
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
    next_id = found[-1].last_id + 1
    connection.execute(update(PushBatch.__table__).where(_batch.id == batch_id).values(first_id=next_id))
    now = datetime.now(UTC)
    common = {"message_id": pending.message_id, "attempts": 0, "due_at": now, "subscription_ids": None}
    rows = connection.execute(
        PushBatch.__table__.insert().returning(_batch.id),
        [one_range._asdict() | common for one_range in found],
    )
    return [ScheduledBatch(row_id, now) for row_id in rows.scalars()]


def load_batch(batch_id: int) -> Batch | None:
    """Return a batch; None if its outcomes are recorded."""
    with autocommit() as connection:
        row = connection.execute(
            select(PushBatch.__table__, _message.message, _message.user_id, _message.created_at)
            .join(PushMessage.__table__)
            .where(_batch.id == batch_id)
        ).one_or_none()
        if row is None:
            return None
        recipients = audience.load_recipients(
            connection, row.user_id, row.first_id, row.last_id, row.subscription_ids
        )
    return Batch(
        id=batch_id,
        message_id=row.message_id,
        message=Message.from_dict(row.message),
        created_at=row.created_at,
        user_id=row.user_id,
        size=row.size,
        attempts=row.attempts,
        recipients=recipients,
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
    audience.record_sent(connection, sent_ids)
    audience.clear_failures(connection, sent_ids)
    audience.record_failures(connection, failed_ids)
    audience.delete_gone(connection, by_result[Result.GONE])
    counts = _count(batch, by_result)
    _add_counts(connection, batch.message_id, counts)
    scheduled = [_add_retry(connection, batch, retry) for retry in retries]
    enqueue(connection, DELIVER, scheduled, BROADCAST_PRIORITY if batch.user_id is None else DIRECT_PRIORITY)
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
    return add_batch(
        connection,
        batch.message_id,
        retry.due_at,
        first_id=retry.ids[0],
        last_id=retry.ids[-1],
        size=len(retry.ids),
        subscription_ids=retry.ids,
        attempts=batch.attempts + 1,
    )


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
