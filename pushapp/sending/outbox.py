"""Messages: create one with its jobs, report its delivery status, delete old ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, exists, func, select

from ..database import autocommit, transaction
from ..extensions import INSERTS
from ..models import PushBatch, PushMessage, PushOutcome, normalize_user_id
from ..webpush.message import Message, MessageError
from . import audience
from .audience import EVERYONE, Everyone
from .batches import FAN_OUT_PENDING, add_batch, fan_out
from .queue import DELIVER, FAN_OUT, ScheduledBatch, delivers_synchronously, enqueue
from .suppression import capture

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
    state: str  # queued, sending, done
    recipients: int
    sent: int
    gone: int
    failed: int
    fan_out_complete: bool  # `recipients` is final


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
    key that was used before nothing is sent, and the id is the first message's. While sends are suppressed,
    nothing leaves the process, and all recipients count as sent.

    Raises MessageError if `to` is an invalid user id.
    """
    user_id = None if to is EVERYONE else normalize_user_id(to)
    if user_id is None and to is not EVERYONE:
        raise MessageError("to", "Must be a user's id, or everyone.")
    with transaction() as connection:
        message_id, scheduled, is_new = _create_message(connection, message, user_id, idempotency_key)
        enqueue(connection, FAN_OUT if to is EVERYONE else DELIVER, scheduled)
    if is_new:
        capture(message, to)
    if scheduled and delivers_synchronously():
        _deliver_now(message_id, scheduled, on_progress)
    return message_id


def send_to_subscription(message: Message, user_id: str, subscription_id: int) -> int | None:
    """Send a message to one of a user's subscriptions; return the message's id, or None without it."""
    with transaction() as connection:
        if not audience.load_recipients(connection, user_id, 0, 0, [subscription_id]):
            return None
        now = datetime.now(UTC)
        row = {"user_id": user_id, "message": message.to_dict(), "recipients": 1, "created_at": now}
        insert = PushMessage.__table__.insert().values(row).returning(_message.id)
        message_id: int = connection.execute(insert).scalar_one()
        ids = {"first_id": subscription_id, "last_id": subscription_id, "subscription_ids": [subscription_id]}
        scheduled = [add_batch(connection, message_id, now, size=1, **ids)]
        enqueue(connection, DELIVER, scheduled)
    capture(message, user_id)
    if delivers_synchronously():
        _deliver_now(message_id, scheduled, _ignore_progress)
    return message_id


def _deliver_now(
    message_id: int, scheduled: Sequence[ScheduledBatch], on_progress: Callable[[int, int], None]
) -> None:
    from .synchronous import deliver  # noqa: PLC0415  # where there is a queue, only workers need the client

    if not status(message_id).fan_out_complete:
        scheduled = [batch for pending in scheduled for chunk in fan_out(pending.batch_id) for batch in chunk]
    total = status(message_id).recipients
    deliver(scheduled, lambda done: on_progress(done, total))


def _create_message(
    connection: Connection, message: Message, user_id: str | None, idempotency_key: str | None
) -> tuple[int, list[ScheduledBatch], bool]:
    now = datetime.now(UTC)
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
        return connection.execute(existing).scalar_one(), [], False
    if user_id is None:
        # One row, whatever the size of the audience: `fan_out` replaces it by batches.
        last_id = audience.newest_id(connection)
        added = [add_batch(connection, message_id, now, first_id=0, last_id=last_id, size=FAN_OUT_PENDING)]
    else:
        added = [add_batch(connection, message_id, now, **one_range._asdict()) for one_range in found]
    return message_id, added, True


def status(message_id: int) -> Status:
    """Return the delivery status of a message.

    Raises MessageNotFoundError.
    """
    with autocommit() as connection:
        unsent = exists().where(_batch.message_id == message_id)
        pending = exists().where(_batch.message_id == message_id, _batch.size == FAN_OUT_PENDING)
        row = connection.execute(
            select(_message.recipients, unsent, pending).where(_message.id == message_id)
        ).one_or_none()
        if row is None:
            raise MessageNotFoundError
        sums = select(_outcome.outcome, func.sum(_outcome.count)).where(_outcome.message_id == message_id)
        counts = {name: int(number) for name, number in connection.execute(sums.group_by(_outcome.outcome))}
    recipients, is_unsent, is_pending = row
    state = "done" if not is_unsent else "sending" if counts else "queued"
    sent, gone, failed = (counts.get(name, 0) for name in ("sent", "gone", "failed"))
    return Status(message_id, state, recipients, sent, gone, failed, not is_pending)


def prune() -> int:
    """Delete messages that finished long ago, and return how many."""
    pruned, deleted = 0, PRUNE_BATCH_SIZE
    while deleted == PRUNE_BATCH_SIZE:
        with transaction() as connection:
            unsent = exists().where(_batch.message_id == _message.id)
            old = (
                select(_message.id)
                .where(_message.created_at < datetime.now(UTC) - MESSAGE_RETENTION, ~unsent)
                .order_by(_message.created_at)
                .limit(PRUNE_BATCH_SIZE)
            )
            ids = connection.execute(old).scalars().all()
            connection.execute(delete(PushOutcome.__table__).where(_outcome.message_id.in_(ids)))
            connection.execute(delete(PushMessage.__table__).where(_message.id.in_(ids)))
            deleted = len(ids)
        pruned += deleted
    after_id: int | None = 0
    while after_id is not None:
        with transaction() as connection:
            after_id = audience.delete_orphaned_failures(connection, after_id, PRUNE_BATCH_SIZE)
    return pruned
