"""Messages: create one with its jobs, cancel it, delete old ones."""

import hashlib
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any

from flask import current_app
from sqlalchemy import Connection, delete, exists, func, select, true

from ..database import autocommit, engine, require_same_database, transaction
from ..dialects import INSERTS
from ..models import MAX_ID, PushBatch, PushMessage, PushOutcome
from ..webpush.message import Message, MessageError
from ..webpush.message_checks import to_json
from . import batches, events, failures, loopback, receipts, recipients
from .audience import Audience, To, User
from .batches import add_batches, add_pending, priority_of
from .clock import database_time
from .queue import DELIVER, FAN_OUT, enqueue
from .status import Status, status
from .suppression import capture, is_suppressed

MAX_DELAY = timedelta(days=365)  # of a scheduled message
MAX_RETENTION_DAYS = 100 * 365  # more would be before the year 1
PRUNE_BATCH_SIZE = 1_000  # messages a transaction

_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c
_outcome = PushOutcome.__table__.c


def _ignore_progress(done: int, total: int) -> None:
    pass


def send(
    message: Message,
    *,
    to: To,
    exclude: Collection[User] = (),
    at: datetime | None = None,
    idempotency_key: str | None = None,
    connection: Connection | None = None,
    on_progress: Callable[[int, int], None] = _ignore_progress,
) -> int:
    """Send a message to a user, users, a Channel, a Device or EVERYONE; return the message's id.

    On PostgreSQL it is queued for the workers. On SQLite it is delivered before the return, and
    `on_progress` is called with how many recipients are done, and how many there are. `exclude` are users
    that are left out. `at` is when to send it, at most a year ahead: its recipients are found then, and its
    TTL begins. With an idempotency key that was used before nothing is sent, and the id is the first
    message's. With `connection`, of the same database, the message is part of that transaction: it is sent
    if that commits, on SQLite by the next `send` or worker. While sends are suppressed, nothing leaves the
    process, and all recipients count as sent.

    Raises MessageError for an invalid argument, and for an idempotency key of another message; ValueError
    for a connection that cannot be used.
    """
    audience, given = Audience.of(to, exclude), message
    content_hash = _hash(message, audience, at) if idempotency_key is not None else None
    if site_url := current_app.config["PUSH_SITE_URL"]:
        message = message.with_absolute_urls(site_url)
    key = {"idempotency_key": idempotency_key, "content_hash": content_hash}
    if connection is not None:
        require_same_database(connection)
        message_id, is_new = _create(connection, message, audience, at, key)
        if is_new:
            # The signal cannot be sent: the commit is the caller's.
            events.store(connection, events.done(connection, message_id))
    else:
        with events.recorded() as (own_connection, happened):
            message_id, is_new = _create(own_connection, message, audience, at, key)
            if is_new:
                happened.extend(events.done(own_connection, message_id))
    if is_new:
        capture(given, to)
    if connection is not None:
        return message_id
    if is_suppressed(current_app):
        loopback.deliver(message_id)
    elif engine().dialect.name == "sqlite" and status(message_id).state != "scheduled":
        _deliver_now(message_id, on_progress)
    return message_id


def _hash(message: Message, audience: Audience, at: datetime | None) -> bytes:
    when = at and at.isoformat()
    return hashlib.sha256(to_json([message.to_dict(), audience.to_row(), when])).digest()


def _deliver_now(message_id: int, on_progress: Callable[[int, int], None]) -> None:
    from .synchronous import deliver  # noqa: PLC0415  # where there is a queue, only workers need the client

    deliver(message_id, lambda done: on_progress(done, status(message_id).recipients))


def _create(
    connection: Connection, message: Message, audience: Audience, at: datetime | None, key: dict[str, Any]
) -> tuple[int, bool]:
    now = database_time(connection)
    send_at = _send_at(at, now)
    first = recipients.Part([], None) if send_at else recipients.next_part(connection, audience, now)
    row = {
        **audience.to_row(),
        **key,
        "message": message.to_dict(),
        "recipients": first.size,
        "created_at": now,
        "send_at": send_at,
    }
    if audience.subscription_id is not None:
        row["user_id"] = recipients.owner_of(connection, audience.subscription_id)
    insert = INSERTS[connection.dialect.name](PushMessage.__table__).values(row)
    insert = insert.on_conflict_do_nothing(index_elements=["idempotency_key"]).returning(_message.id)
    message_id: int | None = connection.execute(insert).scalar()
    if message_id is None:
        return _first_message(connection, key), False
    if send_at is None and not audience.is_broadcast:
        scheduled = add_batches(connection, message_id, now, first.batches)
        enqueue(connection, DELIVER, scheduled, priority_of(audience))
        return message_id, True
    last_id = MAX_ID if send_at else recipients.newest_id(connection)
    pending = add_pending(connection, message_id, send_at or now, last_id)
    enqueue(connection, FAN_OUT, [pending])
    return message_id, True


def _send_at(at: datetime | None, now: datetime) -> datetime | None:
    if at is None:
        return None
    if not isinstance(at, datetime) or at.utcoffset() is None:
        raise MessageError("at", "Must be a datetime with a time zone.")
    if at > now + MAX_DELAY:
        raise MessageError("at", f"Must be at most {MAX_DELAY.days} days ahead.")
    return at if at > now else None


def _first_message(connection: Connection, key: dict[str, Any]) -> int:
    same_key = _message.idempotency_key == key["idempotency_key"]
    first = connection.execute(select(_message.id, _message.content_hash).where(same_key)).one()
    if first.content_hash not in (None, key["content_hash"]):
        raise MessageError("idempotency_key", "Was used for another message.")
    message_id: int = first.id
    return message_id


def cancel(message_id: int) -> Status:
    """Cancel a message, unless it is done: what has not begun is not sent. Return its status.

    Raises MessageNotFoundError.
    """
    unsent = exists().where(_batch.message_id == message_id)
    with events.recorded() as (connection, happened):
        events.lock(connection, message_id)
        if connection.execute(select(unsent)).scalar():
            batches.cancel(connection, message_id)
            happened.extend(events.done(connection, message_id))
    return status(message_id)


def prune() -> int:
    """Delete messages that are older than PUSH_MESSAGE_RETENTION_DAYS and done, and return how many."""
    retention = timedelta(days=min(current_app.config["PUSH_MESSAGE_RETENTION_DAYS"], MAX_RETENTION_DAYS))
    with autocommit() as connection:
        oldest = database_time(connection) - retention
    pruned, deleted = 0, PRUNE_BATCH_SIZE
    while deleted == PRUNE_BATCH_SIZE:
        unsent = exists().where(_batch.message_id == _message.id)
        old = (
            select(_message.id)
            .where(_message.created_at < oldest, func.coalesce(_message.send_at < oldest, true()), ~unsent)
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
