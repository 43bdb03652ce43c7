"""Why a user got a message or did not: sentences about each device, without endpoints and keys."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flask import current_app
from sqlalchemy import Connection, and_, exists, or_, select

from .. import keys
from ..models import (
    PushBatch,
    PushChannelMember,
    PushFailure,
    PushMessage,
    PushReceipt,
    PushSubscription,
)
from ..sending.audience import Audience
from ..sending.batches import FAN_OUT_PENDING
from ..sending.claims import LEASE
from ..sending.failures import LAST_SENT_PRECISION, MAX_FAILURES, MIN_FAILING_TIME
from ..sending.status import Status
from ..webpush.endpoints import origin_of
from ..webpush.message import Message

MAX_BATCHES = 10_000  # searched for a user's devices, the earliest due

_subscription = PushSubscription.__table__.c
_failure = PushFailure.__table__.c
_receipt = PushReceipt.__table__.c
_member = PushChannelMember.__table__.c
_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c


class User(NamedTuple):
    """A user, the channels joined, and the subscriptions with their failures, oldest first."""

    id: str
    channels: frozenset[str]
    devices: Sequence[Any]

    def is_addressed(self, audience: Audience, user_id: str | None) -> bool:
        """Return whether an audience has the user, or a device of the user's; `exclude` does not count.

        `user_id` is the message's: for a device, the user that had it when the message was created.
        """
        if audience.user_ids is not None:
            return self.id in audience.user_ids
        if audience.channel is not None:
            return audience.channel in self.channels
        return audience.subscription_id is None or user_id == self.id


class Waiting(NamedTuple):
    """A batch that some of a user's devices wait in."""

    batch_id: int
    message_id: int
    audience: Audience
    is_pending: bool  # it has not been fanned out to them
    attempts: int
    due_at: datetime
    claimed_at: datetime | None
    cancelled_at: datetime | None
    expires_at: datetime
    first_id: int
    last_id: int
    ids: Sequence[int] | None  # None: all of the message from first_id to last_id

    def includes(self, subscription_id: int) -> bool:
        """Return whether a device of the user is in the batch."""
        return (
            self.audience.subscription_id in (None, subscription_id)
            and self.first_id <= subscription_id <= self.last_id
            and (self.ids is None or subscription_id in self.ids)
        )


def read_user(connection: Connection, user_id: str) -> User:
    """Return a user with channels and devices; one that has neither is no error."""
    channels = connection.execute(select(_member.channel).where(_member.user_id == user_id)).scalars()
    columns = ("id", "label", "endpoint", "vapid_key", "created_at", "expires_at", "last_sent_at")
    is_shown = exists().where(_receipt.subscription_id == _subscription.id, _receipt.event == "shown")
    devices = connection.execute(
        select(
            *(_subscription[name] for name in columns),
            *(_failure.failures, _failure.since, is_shown.label("is_shown")),
        )
        .join_from(
            PushSubscription.__table__,
            PushFailure.__table__,
            _failure.subscription_id == _subscription.id,
            isouter=True,
        )
        .where(_subscription.user_id == user_id)
        .order_by(_subscription.id)
    ).all()
    return User(user_id, frozenset(channels), devices)


def waiting_batches(connection: Connection, user: User, message_id: int | None) -> list[Waiting]:
    """Return the batches that may include a user's devices: of a message, or the earliest MAX_BATCHES."""
    ids = [device.id for device in user.devices]
    if not ids:
        return []
    batches = select(PushBatch.__table__).order_by(_batch.due_at).limit(MAX_BATCHES)
    if message_id is not None:
        batches = batches.where(_batch.message_id == message_id)
    searched = batches.subquery()
    batch = searched.c
    columns = ("user_id", "audience", "message", "created_at", "send_at", "cancelled_at")
    rows = connection.execute(
        select(*batch, *(_message[name] for name in columns))
        .join_from(searched, PushMessage.__table__, batch.message_id == _message.id)
        .where(
            or_(_message.user_id.is_(None), _message.user_id == user.id),
            and_(batch.first_id <= max(ids), batch.last_id >= min(ids)),
            # The database compares, in the order of the fan-out.
            or_(batch.after_user_id.is_(None), batch.after_user_id < user.id),
        )
        .order_by(batch.message_id, batch.id)
    )
    found = ((row, Audience.from_row(row.user_id, row.audience)) for row in rows)
    return [
        Waiting(
            batch_id=row.id,
            message_id=row.message_id,
            audience=audience,
            is_pending=row.size == FAN_OUT_PENDING,
            attempts=row.attempts,
            due_at=row.due_at,
            claimed_at=row.claimed_at,
            cancelled_at=row.cancelled_at,
            expires_at=Message.from_dict(row.message).expires_at(row.send_at or row.created_at),
            first_id=row.first_id,
            last_id=row.last_id,
            ids=row.subscription_ids,
        )
        for row, audience in found
        if user.is_addressed(audience, row.user_id) and user.id not in audience.exclude
    ]


def describe(device: Any, waiting: Sequence[Waiting], now: datetime, message: Status | None = None) -> str:
    """Return what became of a device: all that waits for it, or of one message."""
    facts = [_expiry(device)] if device.expires_at and device.expires_at <= now else []
    facts += [_wait(each, now) for each in waiting if each.includes(device.id)]
    if message is not None and not facts:
        facts.append(_recorded(device, message))
    facts += _old_key(device)
    if device.failures:
        facts.append(
            f"failing since {at(device.since)}, {device.failures} times in a row; it is deleted at"
            f" {MAX_FAILURES} over more than {MIN_FAILING_TIME.days * 24} hours"
        )
    if message is None:
        facts.append(_last_sent(device))
    if current_app.config["PUSH_RECEIPTS"] and device.last_sent_at and not device.is_shown:
        facts.append("its browser has never reported that it showed one")
    name = f"{device.id}  {device.label or 'no label'}, {_host(device.endpoint)}"
    return f"{name}: {'; '.join(facts)}"


def at(time: datetime) -> str:
    """Return a time for operators."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _expiry(device: Any) -> str:
    return f"expired at {at(device.expires_at)}, so nothing is sent to it until its browser subscribes again"


def _old_key(device: Any) -> list[str]:
    current, *_ = known = keys.signers().public_keys
    public_key = device.vapid_key or known[-1]
    if public_key == current:
        return []
    if public_key in known:
        return ["made with an older VAPID key; it moves to the current one when its browser loads a page"]
    return ["made with a VAPID key that is not in the settings, so messages fail (`keys` lists it)"]


def _wait(waiting: Waiting, now: datetime) -> str:
    due_at, tries = at(waiting.due_at), waiting.attempts
    if waiting.cancelled_at:
        state = f"was cancelled at {at(waiting.cancelled_at)}, while a worker was sending it"
    elif waiting.is_pending and waiting.due_at > now:
        state = f"is scheduled for {due_at}"
    elif waiting.is_pending:
        state = "waits for a worker to create its batches"
    elif waiting.claimed_at and waiting.claimed_at > now - LEASE:
        state = "is being sent by a worker"
    elif tries:
        state = f"is retried at {due_at} after {tries} {'attempt' if tries == 1 else 'attempts'}"
    elif waiting.due_at > now:  # a worker had too many others in flight, and handed it back
        state = f"waits for a worker, next at {due_at}"
    else:
        state = f"waits for a worker since {due_at}"
    if not (waiting.cancelled_at or waiting.is_pending):
        state += f", until its TTL is over at {at(waiting.expires_at)} (batch {waiting.batch_id})"
    return f"message {waiting.message_id} {state}"


def _recorded(device: Any, message: Status) -> str:
    if device.created_at > message.starts_at:
        began = "due" if message.send_at else "created"
        return f"subscribed at {at(device.created_at)}, after the message was {began}"
    if device.last_sent_at and device.last_sent_at >= message.starts_at - LAST_SENT_PRECISION:
        return f"reached at {at(device.last_sent_at)} by this message or a later one"
    cancelled = f" before it was cancelled at {at(message.cancelled_at)}" if message.cancelled_at else ""
    return f"not reached by it{cancelled}; {_last_sent(device)}"


def _last_sent(device: Any) -> str:
    if device.last_sent_at:
        return f"reached last at {at(device.last_sent_at)}"
    return f"never reached since it subscribed at {at(device.created_at)}"


def _host(endpoint: str) -> str:
    try:
        return origin_of(endpoint).host
    except ValueError:  # imported
        return "an endpoint that is no URL"
