"""Delivery status of messages, in a constant number of queries, however many there are."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Select, exists, false, func, select

from ..database import autocommit
from ..models import PushBatch, PushMessage, PushOutcome
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
    """Delivery status of a message."""

    id: int
    state: str  # scheduled, queued, sending, done, cancelled
    created_at: datetime
    send_at: datetime | None  # None: when it was created
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

    @property
    def pending(self) -> int:
        """Recipients without a recorded outcome."""
        recorded: int = sum(getattr(self, outcome) for outcome in OUTCOMES)
        return self.recipients - recorded


class MessageNotFoundError(LookupError):
    """No message has this id."""


def status(message_id: int) -> Status:
    """Return the delivery status of a message.

    Raises MessageNotFoundError.
    """
    with autocommit() as connection:
        found = _load(connection, select(_message.id).where(_message.id == message_id))
    if not found:
        raise MessageNotFoundError
    return found[0]


def statuses(before: int | None = None, limit: int = 20) -> list[Status]:
    """Return the delivery status of the newest messages, newest first; those with ids below `before`."""
    ids = select(_message.id).order_by(_message.id.desc()).limit(limit)
    with autocommit() as connection:
        return _load(connection, ids if before is None else ids.where(_message.id < before))


def audiences(message_ids: Collection[int]) -> dict[int, Audience]:
    """Return whom messages are to, by id."""
    stored = select(_message.id, _message.user_id, _message.audience).where(_message.id.in_(message_ids))
    with autocommit() as connection:
        return {row.id: Audience.from_row(row.user_id, row.audience) for row in connection.execute(stored)}


def _load(connection: Connection, ids: Select[int]) -> list[Status]:
    of_message = _batch.message_id == _message.id
    rows = connection.execute(
        select(
            _message.id,
            _message.recipients,
            _message.created_at,
            _message.send_at,
            _message.cancelled_at,
            func.coalesce(_message.send_at > database_time(connection), false()).label("is_scheduled"),
            exists().where(of_message).label("is_unsent"),
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
            state=state_of(
                is_cancelled=row.cancelled_at is not None,
                is_unsent=row.is_unsent,
                is_scheduled=row.is_scheduled,
                is_recorded=bool(counts[row.id]),
            ),
            created_at=row.created_at,
            send_at=row.send_at,
            recipients=row.recipients,
            **{name: counts[row.id].get(name, 0) for name in OUTCOMES},
            shown=reported[row.id]["shown"],
            clicked=reported[row.id]["clicked"],
            fan_out_complete=not row.is_pending,
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


def state_of(*, is_cancelled: bool, is_unsent: bool, is_scheduled: bool, is_recorded: bool) -> str:
    """Return a message's state: scheduled, queued, sending, done or cancelled.

    `is_unsent`: it has batches. `is_scheduled`: for later than now. `is_recorded`: it has outcomes.
    """
    if is_cancelled:
        return "cancelled"
    if not is_unsent:
        return "done"
    if is_scheduled and not is_recorded:
        return "scheduled"
    return "sending" if is_recorded else "queued"
