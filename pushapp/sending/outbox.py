"""Messages: create one with its jobs, report its delivery status, delete old ones."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, false, func, select

from ..database import autocommit, engine, transaction
from ..extensions import INSERTS
from ..models import PushBatch, PushMessage, PushOutcome, normalize_user_id
from ..webpush.message import Message, MessageError
from . import audience, events, failures, receipts
from .audience import EVERYONE, Everyone
from .batches import FAN_OUT_PENDING, add_batch
from .clock import database_time
from .queue import DELIVER, FAN_OUT, ScheduledBatch, enqueue

MESSAGE_RETENTION = timedelta(days=30)  # of finished messages
PRUNE_BATCH_SIZE = 1_000  # messages a transaction
RECIPIENT_COUNT_LIMIT = 10 * audience.BATCH_SIZE  # for a broadcast that has not been fanned out

_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c
_outcome = PushOutcome.__table__.c


@dataclass(frozen=True, slots=True)
class Status:
    """Delivery status of a message."""

    id: int
    state: str  # scheduled, queued, sending, done, cancelled
    recipients: int
    sent: int = 0
    gone: int = 0
    failed: int = 0
    expired: int = 0
    replaced: int = 0
    cancelled: int = 0
    shown: int = 0
    clicked: int = 0
    fan_out_complete: bool = True  # `recipients` is final

    @property
    def pending(self) -> int:
        """Recipients without a recorded outcome."""
        recorded = self.sent + self.gone + self.failed + self.expired + self.replaced + self.cancelled
        return self.recipients - recorded


class MessageNotFoundError(LookupError):
    """No message has this id."""


def _ignore_progress(done: int, total: int) -> None:
    pass


def send(
    message: Message,
    *,
    to: str | int | Everyone,
    idempotency_key: str | None = None,
    on_progress: Callable[[int, int], None] = _ignore_progress,
) -> int:
    """Send a message to a user, or to EVERYONE; return the message's id.

    On PostgreSQL it is queued for `flask push worker`. On SQLite it is delivered before the return, and
    `on_progress` is called with how many recipients are done, and how many there are. With an idempotency
    key that was used before nothing is sent, and the id is the first message's.

    Raises MessageError if `to` is an invalid user id.
    """
    user_id = None if to is EVERYONE else normalize_user_id(to)
    if user_id is None and to is not EVERYONE:
        raise MessageError("to", "Must be a user's id, or everyone.")
    with events.recorded() as (connection, happened):
        message_id, scheduled = _create_message(connection, message, user_id, idempotency_key, happened)
        enqueue(connection, FAN_OUT if to is EVERYONE else DELIVER, scheduled)
    if engine().dialect.name == "sqlite":
        _deliver_now(message_id, on_progress)
    return message_id


def send_to_subscription(message: Message, user_id: str, subscription_id: int) -> int | None:
    """Send a message to one of a user's subscriptions; return the message's id, or None without it."""
    with transaction() as connection:
        if not audience.load_recipients(connection, user_id, 0, 0, [subscription_id]):
            return None
        now = database_time(connection)
        row = {"user_id": user_id, "message": message.to_dict(), "recipients": 1, "created_at": now}
        insert = PushMessage.__table__.insert().values(row).returning(_message.id)
        message_id: int = connection.execute(insert).scalar_one()
        ids = {"first_id": subscription_id, "last_id": subscription_id, "subscription_ids": [subscription_id]}
        scheduled = [add_batch(connection, message_id, now, size=1, **ids)]
        enqueue(connection, DELIVER, scheduled)
    if engine().dialect.name == "sqlite":
        _deliver_now(message_id, _ignore_progress)
    return message_id


def _deliver_now(message_id: int, on_progress: Callable[[int, int], None]) -> None:
    from .synchronous import deliver  # noqa: PLC0415  # where there is a queue, only workers need the client

    deliver(message_id, lambda done: on_progress(done, status(message_id).recipients))


def _create_message(
    connection: Connection,
    message: Message,
    user_id: str | None,
    idempotency_key: str | None,
    happened: list[events.Event],
) -> tuple[int, list[ScheduledBatch]]:
    now = database_time(connection)
    limit = RECIPIENT_COUNT_LIMIT if user_id is None else None
    found = audience.ranges(connection, user_id, limit=limit)
    row = {
        "user_id": user_id,
        "message": message.to_dict(),
        "recipients": sum(one_range.size for one_range in found),
        "idempotency_key": idempotency_key,
        "created_at": now,
    }
    insert = INSERTS[connection.dialect.name](PushMessage.__table__).values(row)
    insert = insert.on_conflict_do_nothing(index_elements=["idempotency_key"]).returning(_message.id)
    message_id = connection.execute(insert).scalar()
    if message_id is None:
        existing = select(_message.id).where(_message.idempotency_key == idempotency_key)
        return connection.execute(existing).scalar_one(), []
    if user_id is None:
        # One row, whatever the size of the audience: `fan_out` replaces it by batches.
        last_id = audience.newest_id(connection)
        return message_id, [
            add_batch(connection, message_id, now, first_id=0, last_id=last_id, size=FAN_OUT_PENDING)
        ]
    if not found:
        happened += events.done(connection, message_id)
    return message_id, [add_batch(connection, message_id, now, **one_range._asdict()) for one_range in found]


def status(message_id: int) -> Status:
    """Return the delivery status of a message.

    Raises MessageNotFoundError.
    """
    with autocommit() as connection:
        unsent = exists().where(_batch.message_id == message_id)
        pending = exists().where(_batch.message_id == message_id, _batch.size == FAN_OUT_PENDING)
        row = connection.execute(
            select(
                _message.recipients,
                _message.cancelled_at,
                func.coalesce(_message.send_at > database_time(connection), false()).label("is_scheduled"),
                unsent.label("is_unsent"),
                pending.label("is_pending"),
            ).where(_message.id == message_id)
        ).one_or_none()
        if row is None:
            raise MessageNotFoundError
        sums = select(_outcome.outcome, func.sum(_outcome.count)).where(_outcome.message_id == message_id)
        counts = {name: int(number) for name, number in connection.execute(sums.group_by(_outcome.outcome))}
        reported = receipts.counts(connection, message_id)
    state = _state(row, is_recorded=bool(counts))
    return Status(
        id=message_id,
        state=state,
        recipients=row.recipients,
        fan_out_complete=not row.is_pending,
        shown=reported["shown"],
        clicked=reported["clicked"],
        **counts,
    )


def _state(row: Row[Any], *, is_recorded: bool) -> str:
    if row.cancelled_at:
        return "cancelled"
    if not row.is_unsent:
        return "done"
    if row.is_scheduled and not is_recorded:
        return "scheduled"
    return "sending" if is_recorded else "queued"


def prune() -> int:
    """Delete messages that finished long ago, and return how many."""
    pruned, deleted = 0, PRUNE_BATCH_SIZE
    while deleted == PRUNE_BATCH_SIZE:
        unsent = exists().where(_batch.message_id == _message.id)
        old = (
            select(_message.id)
            .where(_message.created_at < datetime.now(UTC) - MESSAGE_RETENTION, ~unsent)
            .order_by(_message.created_at)
            .limit(PRUNE_BATCH_SIZE)
        )
        with autocommit() as connection:
            ids = connection.execute(old).scalars().all()
        receipts.delete_of(ids)
        with transaction() as connection:
            connection.execute(delete(PushOutcome.__table__).where(_outcome.message_id.in_(ids)))
            connection.execute(delete(PushMessage.__table__).where(_message.id.in_(ids)))
            deleted = len(ids)
        pruned += deleted
    after_id: int | None = 0
    while after_id is not None:
        with transaction() as connection:
            after_id = failures.delete_orphaned_failures(connection, after_id, PRUNE_BATCH_SIZE)
    return pruned
