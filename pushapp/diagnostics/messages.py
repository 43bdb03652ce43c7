"""How far messages are. Bounded queries by indexes: neither recipients nor old messages cost more."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from flask import current_app
from sqlalchemy import Connection, exists, func, or_, select

from ..models import PushBatch, PushMessage, PushOutcome
from ..sending.audience import Audience
from ..sending.batches import FAN_OUT_PENDING, IS_PENDING
from ..sending.status import state_of
from ..webpush.message import Message
from ..webpush.push_services import hosts_of, push_service_of

MAX_MESSAGES = 20  # under way, and as many scheduled
MAX_BATCHES = 10_000  # searched for messages under way, the earliest due
RECENT_MESSAGES = 500  # whose outcomes are summed by push service

_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c
_outcome = PushOutcome.__table__.c


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a message is; `outcomes` are numbers of recipients by outcome."""

    id: int
    user_id: str | None  # of a message to one user or device
    audience: Audience
    message: Message
    state: str  # as `sending.status.state_of` returns it
    created_at: datetime
    send_at: datetime | None
    cancelled_at: datetime | None
    recipients: int
    is_counted: bool  # `recipients` is final
    is_under_way: bool
    outcomes: Mapping[str, int]

    @property
    def done(self) -> int:
        """Recipients with an outcome."""
        return sum(self.outcomes.values())

    @property
    def waiting(self) -> int:
        """Recipients without an outcome."""
        return max(self.recipients - self.done, 0)

    @property
    def starts_at(self) -> datetime:
        """When it is due, and its TTL begins."""
        return self.send_at or self.created_at

    @property
    def expires_at(self) -> datetime:
        """When the TTL is over."""
        return self.message.expires_at(self.starts_at)


def newest_ids(connection: Connection, limit: int) -> Sequence[int]:
    """Return the ids of the newest messages, newest first."""
    return connection.execute(select(_message.id).order_by(_message.id.desc()).limit(limit)).scalars().all()


def under_way_ids(connection: Connection, now: datetime) -> Sequence[int]:
    """Return the ids of messages with batches that are due or retried, newest first, at most MAX_MESSAGES."""
    batches = select(_batch.message_id, _batch.size, _batch.due_at).order_by(_batch.due_at)
    earliest = batches.limit(MAX_BATCHES).subquery().c
    is_begun = or_(earliest.size != FAN_OUT_PENDING, earliest.due_at <= now)
    newest = select(earliest.message_id).distinct().where(is_begun).order_by(earliest.message_id.desc())
    return connection.execute(newest.limit(MAX_MESSAGES)).scalars().all()


def scheduled_ids(connection: Connection, now: datetime) -> Sequence[int]:
    """Return the ids of scheduled messages, the next ones first, at most MAX_MESSAGES."""
    scheduled = select(_batch.message_id).where(IS_PENDING, _batch.due_at > now)
    return connection.execute(scheduled.order_by(_batch.due_at).limit(MAX_MESSAGES)).scalars().all()


def progress(connection: Connection, ids: Collection[int], now: datetime) -> list[Progress]:
    """Return how far messages are, newest first; an id that does not exist is left out."""
    of_message = _batch.message_id == _message.id
    names = ("id", "user_id", "audience", "message", "created_at", "send_at", "cancelled_at", "recipients")
    rows = connection.execute(
        select(
            *(_message[name] for name in names),
            exists().where(of_message).label("is_under_way"),
            exists().where(of_message, IS_PENDING).label("is_pending"),
        )
        .where(_message.id.in_(ids))
        .order_by(_message.id.desc())
    ).all()
    sums = select(_outcome.message_id, _outcome.outcome, func.sum(_outcome.count))
    grouped = sums.where(_outcome.message_id.in_(ids)).group_by(_outcome.message_id, _outcome.outcome)
    outcomes: dict[int, dict[str, int]] = defaultdict(dict)
    for message_id, outcome, number in connection.execute(grouped):
        outcomes[message_id][outcome] = int(number)
    return [
        Progress(
            id=row.id,
            user_id=row.user_id,
            audience=Audience.from_row(row.user_id, row.audience),
            message=Message.from_dict(row.message),
            state=state_of(
                is_cancelled=row.cancelled_at is not None,
                is_unsent=row.is_under_way,
                is_scheduled=row.send_at is not None and row.send_at > now,
                is_recorded=bool(outcomes[row.id]),
            ),
            created_at=row.created_at,
            send_at=row.send_at,
            cancelled_at=row.cancelled_at,
            recipients=row.recipients,
            is_counted=not row.is_pending,
            is_under_way=row.is_under_way,
            outcomes=outcomes[row.id],
        )
        for row in rows
    ]


def outcomes_by_push_service(
    connection: Connection, message_id: int | None = None
) -> dict[str, Counter[str]]:
    """Return numbers of recipients by push service and outcome: of a message, or of RECENT_MESSAGES."""
    sums = select(_outcome.push_service, _outcome.outcome, func.sum(_outcome.count))
    if message_id is None:
        recent = newest_ids(connection, RECENT_MESSAGES) or [0]
        # Both ends, as values: PostgreSQL would read the whole table for one end, or for a subquery.
        sums = sums.where(_outcome.message_id.between(recent[-1], recent[0]))
    else:
        sums = sums.where(_outcome.message_id == message_id)
    trusted_hosts = hosts_of(current_app.config["PUSH_TRUSTED_PUSH_SERVICES"])
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for host, outcome, number in connection.execute(sums.group_by(_outcome.push_service, _outcome.outcome)):
        counts[push_service_of(host, trusted_hosts)][outcome] += int(number)
    return dict(sorted(counts.items(), key=lambda item: -item[1].total()))
