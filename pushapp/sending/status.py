"""Delivery status of messages, in a constant number of queries, however many there are."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, exists, false, func, select

from ..database import autocommit
from ..models import PushBatch, PushMessage, PushOutcome
from ..webpush.message import Message
from . import receipts
from .audience import Audience
from .batches import IS_PENDING
from .clock import database_time

OUTCOMES = ("sent", "gone", "failed", "expired", "replaced", "cancelled")

_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c
_outcome = PushOutcome.__table__.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A message and its delivery status."""

    id: int
    state: str  # scheduled, queued, sending, done, cancelled
    user_id: str | None  # of a message to one user or device
    audience: Audience
    values: Mapping[str, Any]  # of the message
    created_at: datetime
    send_at: datetime | None  # None: when it was created
    cancelled_at: datetime | None
    recipients: int
    sent: int
    gone: int
    failed: int
    expired: int
    replaced: int
    cancelled: int
    shown: int
    clicked: int
    fan_out_complete: bool  # `recipients` is final
    is_under_way: bool  # it has batches

    @property
    def message(self) -> Message:
        """The message itself."""
        return Message.from_dict(self.values)

    @property
    def outcomes(self) -> dict[str, int]:
        """Numbers of recipients by outcome, without those that have none."""
        return {name: number for name in OUTCOMES if (number := getattr(self, name))}

    @property
    def done(self) -> int:
        """Recipients with a recorded outcome."""
        return sum(self.outcomes.values())

    @property
    def pending(self) -> int:
        """Recipients without one."""
        return self.recipients - self.done

    @property
    def starts_at(self) -> datetime:
        """When it is due, and its TTL begins."""
        return self.send_at or self.created_at

    @property
    def expires_at(self) -> datetime:
        """When its TTL is over."""
        return self.message.expires_at(self.starts_at)


class MessageNotFoundError(LookupError):
    """No message has this id."""


def status(message_id: int) -> Status:
    """Return the delivery status of a message.

    Raises MessageNotFoundError.
    """
    with autocommit() as connection:
        found = load(connection, [message_id])
    if not found:
        raise MessageNotFoundError
    return found[0]


def statuses(before: int | None = None, limit: int = 20) -> list[Status]:
    """Return the delivery status of the newest messages, newest first; those with ids below `before`."""
    ids = select(_message.id).order_by(_message.id.desc()).limit(limit)
    with autocommit() as connection:
        return load(connection, ids if before is None else ids.where(_message.id < before))


def load(connection: Connection, ids: Collection[int] | Select[int]) -> list[Status]:
    """Return the delivery status of messages, newest first; an id that does not exist is left out."""
    of_message = _batch.message_id == _message.id
    names = ("id", "user_id", "audience", "message", "created_at", "send_at", "cancelled_at", "recipients")
    rows = connection.execute(
        select(
            *(_message[name] for name in names),
            func.coalesce(_message.send_at > database_time(connection), false()).label("is_scheduled"),
            exists().where(of_message).label("is_under_way"),
            exists().where(of_message, IS_PENDING).label("is_pending"),
        )
        .where(_message.id.in_(ids))
        .order_by(_message.id.desc())
    ).all()
    message_ids = [row.id for row in rows]
    counts, reported = _count_outcomes(connection, message_ids), receipts.counts(connection, message_ids)
    return [
        Status(
            id=row.id,
            state=_state(row, is_recorded=bool(counts[row.id])),
            user_id=row.user_id,
            audience=Audience.from_row(row.user_id, row.audience),
            values=row.message,
            created_at=row.created_at,
            send_at=row.send_at,
            cancelled_at=row.cancelled_at,
            recipients=row.recipients,
            **{name: counts[row.id].get(name, 0) for name in OUTCOMES},
            shown=reported[row.id]["shown"],
            clicked=reported[row.id]["clicked"],
            fan_out_complete=not row.is_pending,
            is_under_way=row.is_under_way,
        )
        for row in rows
    ]


def _count_outcomes(connection: Connection, message_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    sums = select(_outcome.message_id, _outcome.outcome, func.sum(_outcome.count))
    of_messages = sums.where(_outcome.message_id.in_(message_ids))
    counts: dict[int, dict[str, int]] = defaultdict(dict)
    for message_id, outcome, number in connection.execute(
        of_messages.group_by(_outcome.message_id, _outcome.outcome)
    ):
        counts[message_id][outcome] = int(number)
    return counts


def _state(row: Any, *, is_recorded: bool) -> str:
    if row.cancelled_at is not None:
        return "cancelled"
    if not row.is_under_way:
        return "done"
    if row.is_scheduled and not is_recorded:
        return "scheduled"
    return "sending" if is_recorded else "queued"
