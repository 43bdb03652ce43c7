"""Claims: the process that sends a batch says so, again and again, and no other sends it meanwhile."""

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, func, or_, select, text, update

from ..database import autocommit, transaction
from ..models import PushBatch, PushMessage
from ..webpush.message import Message
from . import recipients
from .audience import Audience
from .clock import database_time
from .queue import BROADCAST_PRIORITY, DELIVER, DIRECT_PRIORITY, FAN_OUT, QUEUE, ScheduledBatch, requeue

LEASE = timedelta(seconds=10)  # a claim that was not renewed for so long is void
TTL_GRACE = timedelta(minutes=1)  # for the first attempt of a message with TTL 0
JOB_GRACE = 20  # seconds that a live worker has to claim the batch of a job that it has fetched
HEARTBEAT_TIMEOUT = 20  # seconds
SCANNED_BATCHES = 10_000  # a query

_batch = PushBatch.__table__.c
_message = PushMessage.__table__.c


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that this process has claimed, its message, and those of its recipients that still exist."""

    id: int
    message_id: int
    message: Message
    audience: Audience
    size: int
    attempts: int
    is_cancelled: bool  # by the time of the claim: another process may have sent a part of it
    starts_at: datetime  # the TTL counts from here
    claimed_at: datetime
    recipients: Sequence[Row[Any]]
    replaced: Collection[int] = ()  # ids of recipients that have a newer message with the same topic
    _loaded_at: float = field(default_factory=time.monotonic)

    @property
    def is_direct(self) -> bool:
        """Whether the message is to one user."""
        return self.audience.is_direct

    @property
    def retry_until(self) -> datetime:
        """When the TTL is over."""
        return self.message.expires_at(self.starts_at)

    @property
    def begin_until(self) -> datetime:
        """When it is too late to begin: a first attempt of a message with TTL 0 has a minute's grace."""
        if self.attempts or self.message.ttl:
            return self.retry_until
        return self.starts_at + TTL_GRACE

    def remaining_time(self) -> float:
        """Return the seconds until it is too late to begin."""
        return (self.begin_until - self.now()).total_seconds()

    def now(self) -> datetime:
        """Return the database's time, without asking it."""
        return self.claimed_at + timedelta(seconds=time.monotonic() - self._loaded_at)

    def ttl(self) -> int:
        """Return the TTL to send, in seconds.

        The push service counts from when it receives the message (RFC 8030, section 5.2), so the first
        attempt has the whole TTL; a retry has the remaining one.
        """
        if not self.attempts:
            return self.message.ttl
        return max(0, math.ceil((self.retry_until - self.now()).total_seconds()))


def claim(batch_id: int, owner: int) -> Batch | None:
    """Claim a due batch for a process; None if it is recorded, not due, or another process sends it.

    `owner` is a number of the process, which claims no batch again that it is sending.
    """
    with autocommit() as connection:
        now = database_time(connection)
        row = connection.execute(
            update(PushBatch.__table__)
            .where(
                _batch.id == batch_id,
                _batch.size > 0,
                _batch.due_at <= now,
                _is_free(now) | (_batch.claimed_by == owner),  # again, after a time-out
            )
            .values(claimed_by=owner, claimed_at=now)
            .returning(*_batch)
        ).one_or_none()
        if row is None:
            return None
        message = connection.execute(select(*_message).where(_message.id == row.message_id)).one()
        audience = Audience.from_row(message.user_id, message.audience)
        found = recipients.load(
            connection,
            audience,
            now,
            first_id=row.first_id,
            last_id=row.last_id,
            ids=row.subscription_ids,
        )
        ids = [recipient.id for recipient in found]
        replaced: Collection[int] = ()
        if row.attempts and message.topic:
            replaced = recipients.replaced(connection, message.id, message.topic, ids, now)
    return Batch(
        id=batch_id,
        message_id=message.id,
        message=Message.from_dict(message.message),
        audience=audience,
        size=row.size,
        attempts=row.attempts,
        is_cancelled=message.cancelled_at is not None,
        starts_at=message.send_at or message.created_at,
        claimed_at=now,
        recipients=found,
        replaced=replaced,
    )


def _is_free(now: datetime) -> ColumnElement[bool]:
    return or_(_batch.claimed_at.is_(None), _batch.claimed_at < now - LEASE)


def renew(batch_ids: Collection[int], owner: int) -> dict[int, bool]:
    """Renew this process's claims; return which it still has, and whether their message is cancelled."""
    with transaction() as connection:
        own = _batch.id.in_(sorted(batch_ids)) & (_batch.claimed_by == owner)
        connection.execute(
            update(PushBatch.__table__).where(own).values(claimed_at=database_time(connection))
        )
        found = select(_batch.id, _message.cancelled_at.is_not(None)).join(PushMessage.__table__).where(own)
        return {row[0]: row[1] for row in connection.execute(found)}


def due_batches(limit: int) -> list[tuple[int, int]]:
    """Return ids and sizes of batches that are due and that no process sends, messages to users first."""
    with autocommit() as connection:
        now = database_time(connection)
        found = (
            select(_batch.id, _batch.size)
            .join(PushMessage.__table__)
            .where(_batch.due_at <= now, _is_free(now))
            .order_by(_message.user_id.is_(None), _batch.id)
            .limit(limit)
        )
        return [(batch_id, size) for batch_id, size in connection.execute(found)]


def next_time(message_id: int, started_at: datetime) -> datetime | None:
    """Return when a batch of a message, or one that was due at `started_at`, can be claimed; None: never."""
    with autocommit() as connection:
        concerned = or_(_batch.message_id == message_id, _batch.due_at <= started_at)
        free = select(func.min(_batch.due_at)).where(concerned, _batch.claimed_at.is_(None))
        claimed_at = select(func.min(_batch.claimed_at)).where(concerned)
        times = [connection.execute(free).scalar(), connection.execute(claimed_at).scalar()]
    times[1] = times[1] and times[1] + LEASE
    return min((time for time in times if time), default=None)


_SCANNED = text("SELECT max(id), count(*) FROM (SELECT id FROM push_batches WHERE id > :after_id"
                " ORDER BY id LIMIT :limit) AS scanned")  # fmt: skip
# A job that a live worker has fetched may still have to claim its batch.
_LOST = text(
    "SELECT b.id, b.size, m.user_id IS NOT NULL, b.due_at"
    " FROM (SELECT * FROM push_batches WHERE id > :after_id ORDER BY id LIMIT :limit) b"
    " JOIN push_messages m ON m.id = b.message_id"
    " WHERE b.due_at <= now() AND (b.claimed_at IS NULL OR b.claimed_at < now() - CAST(:lease AS interval))"
    " AND NOT EXISTS (SELECT FROM push_queue.procrastinate_jobs j"
    "  WHERE j.status = 'todo' AND j.queueing_lock = 'batch ' || b.id)"
    " AND NOT EXISTS (SELECT FROM push_queue.procrastinate_jobs j"
    "  JOIN push_queue.procrastinate_workers w ON w.id = j.worker_id"
    "  WHERE j.status = 'doing' AND j.queueing_lock = 'batch ' || b.id"
    "  AND b.due_at > now() - make_interval(secs => :job_grace)"
    "  AND w.last_heartbeat > now() - make_interval(secs => :heartbeat_timeout))"
)
_DELETE_STALLED_WORKERS = text(
    "DELETE FROM push_queue.procrastinate_workers"
    " WHERE last_heartbeat < now() - make_interval(secs => :heartbeat_timeout)"
)
_DELETE_STALLED_JOBS = text(
    "DELETE FROM push_queue.procrastinate_jobs"
    " WHERE status = 'doing' AND worker_id IS NULL AND queue_name = :queue"  # not the webhook's
)


def requeue_lost(after_id: int = 0) -> tuple[list[int], int]:
    """Queue due batches again that have no job and no process that sends them, on PostgreSQL.

    Looks through SCANNED_BATCHES batches after an id. Returns the ids of the lost ones, and the id to
    continue after, 0 at the end.
    """
    with transaction() as connection:
        values = {"after_id": after_id, "limit": SCANNED_BATCHES}
        last_id, number = connection.execute(_SCANNED, values).one()
        limits = {"lease": LEASE, "job_grace": JOB_GRACE, "heartbeat_timeout": HEARTBEAT_TIMEOUT}
        lost = connection.execute(_LOST, values | limits).all()
        for batch_id, size, is_direct, due_at in lost:
            priority = DIRECT_PRIORITY if is_direct or not size else BROADCAST_PRIORITY
            task_name = DELIVER if size else FAN_OUT
            requeue(connection, task_name, [ScheduledBatch(batch_id, due_at)], priority)
        connection.execute(_DELETE_STALLED_WORKERS, {"heartbeat_timeout": HEARTBEAT_TIMEOUT})
        connection.execute(_DELETE_STALLED_JOBS, {"queue": QUEUE})
    return [row[0] for row in lost], last_id if number == SCANNED_BATCHES else 0
