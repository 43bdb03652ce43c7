"""Why a user got a message or did not: sentences about each device, without endpoints and keys."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, or_, select

from ..models import PushBatch, PushFailure, PushMessage, PushSubscription
from ..sending.batches import FAN_OUT_PENDING
from ..sending.failures import LAST_SENT_PRECISION, MAX_FAILURES, MIN_FAILING_TIME
from ..webpush.endpoints import origin_of
from ..webpush.message import Message
from .messages import Progress

MAX_BATCHES = 10_000  # searched for a user's devices, the earliest due

_subscription = PushSubscription.__table__.c
_failure = PushFailure.__table__.c
_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c


class Waiting(NamedTuple):
    """A batch that some of a user's devices wait in."""

    batch_id: int
    message_id: int
    is_pending: bool  # the broadcast has not been fanned out to them
    attempts: int
    due_at: datetime
    expires_at: datetime
    first_id: int
    last_id: int
    ids: Sequence[int] | None  # None: all of the message from first_id to last_id

    def includes(self, subscription_id: int) -> bool:
        """Return whether a device of the user is in the batch."""
        return self.first_id <= subscription_id <= self.last_id and (
            self.ids is None or subscription_id in self.ids
        )


def devices_of(connection: Connection, user_id: str) -> Sequence[Any]:
    """Return a user's subscriptions with their failures, oldest first."""
    columns = ("id", "label", "endpoint", "created_at", "expires_at", "last_sent_at")
    return connection.execute(
        select(*(_subscription[name] for name in columns), _failure.failures, _failure.since)
        .join_from(
            PushSubscription.__table__,
            PushFailure.__table__,
            _failure.subscription_id == _subscription.id,
            isouter=True,
        )
        .where(_subscription.user_id == user_id)
        .order_by(_subscription.id)
    ).all()


def waiting_batches(
    connection: Connection, user_id: str, ids: Sequence[int], message_id: int | None
) -> list[Waiting]:
    """Return the batches that may include a user's devices: of a message, or the earliest MAX_BATCHES."""
    if not ids:
        return []
    batches = select(PushBatch.__table__).order_by(_batch.due_at).limit(MAX_BATCHES)
    if message_id is not None:
        batches = batches.where(_batch.message_id == message_id)
    searched = batches.subquery()
    batch = searched.c
    names = ("id", "message_id", "size", "attempts", "due_at", "first_id", "last_id", "subscription_ids")
    rows = connection.execute(
        select(*(batch[name] for name in names), _message.message, _message.created_at)
        .join_from(searched, PushMessage.__table__, batch.message_id == _message.id)
        .where(
            or_(_message.user_id.is_(None), _message.user_id == user_id),
            and_(batch.first_id <= max(ids), batch.last_id >= min(ids)),
        )
        .order_by(batch.message_id, batch.id)
    )
    return [
        Waiting(
            batch_id=row.id,
            message_id=row.message_id,
            is_pending=row.size == FAN_OUT_PENDING,
            attempts=row.attempts,
            due_at=row.due_at,
            expires_at=Message.from_dict(row.message).expires_at(row.created_at),
            first_id=row.first_id,
            last_id=row.last_id,
            ids=row.subscription_ids,
        )
        for row in rows
    ]


def describe(device: Any, waiting: Sequence[Waiting], message: Progress | None = None) -> str:
    """Return what became of a device: all that waits for it, or of one message."""
    facts = [_expiry(device)] if device.expires_at and device.expires_at <= datetime.now(UTC) else []
    facts += [_wait(each) for each in waiting if each.includes(device.id)]
    if message is not None and not facts:
        facts.append(_recorded(device, message))
    if device.failures:
        facts.append(
            f"failing since {at(device.since)}, {device.failures} times in a row; it is deleted at"
            f" {MAX_FAILURES} over more than {MIN_FAILING_TIME.days * 24} hours"
        )
    if message is None:
        facts.append(_last_sent(device))
    name = f"{device.id}  {device.label or 'no label'}, {_host(device.endpoint)}"
    return f"{name}: {'; '.join(facts)}"


def at(time: datetime) -> str:
    """Return a time for operators."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _expiry(device: Any) -> str:
    return f"expired at {at(device.expires_at)}, so nothing is sent to it until its browser subscribes again"


def _wait(waiting: Waiting) -> str:
    name = f"message {waiting.message_id}"
    until = f"until its TTL is over at {at(waiting.expires_at)}"
    if waiting.is_pending:
        return f"{name} waits for a worker to create its batches"
    if waiting.attempts:
        tries = f"{waiting.attempts} {'attempt' if waiting.attempts == 1 else 'attempts'}"
        return f"{name} is retried at {at(waiting.due_at)} after {tries}, {until} (batch {waiting.batch_id})"
    return f"{name} waits for a worker since {at(waiting.due_at)}, {until} (batch {waiting.batch_id})"


def _recorded(device: Any, message: Progress) -> str:
    if device.created_at > message.created_at:
        return f"subscribed at {at(device.created_at)}, after the message was created"
    if device.last_sent_at and device.last_sent_at >= message.created_at - LAST_SENT_PRECISION:
        return f"reached at {at(device.last_sent_at)} by this message or a later one"
    return f"not reached by it; {_last_sent(device)}"


def _last_sent(device: Any) -> str:
    if device.last_sent_at:
        return f"reached last at {at(device.last_sent_at)}"
    return f"never reached since it subscribed at {at(device.created_at)}"


def _host(endpoint: str) -> str:
    try:
        return origin_of(endpoint).host
    except ValueError:  # imported
        return "an endpoint that is no URL"
