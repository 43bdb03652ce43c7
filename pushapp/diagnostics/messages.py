"""How far messages are. Bounded queries by indexes: neither recipients nor old messages cost more."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from flask import current_app
from sqlalchemy import Connection, exists, func, literal, select

from ..models import PushBatch, PushMessage, PushOutcome
from ..sending.batches import FAN_OUT_PENDING
from ..webpush.message import Message
from ..webpush.push_services import push_service_of

MAX_UNDER_WAY = 20  # messages
RECENT_MESSAGES = 500  # whose outcomes are summed by push service

_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c
_outcome = PushOutcome.__table__.c


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a message is; `outcomes` are numbers of recipients by outcome."""

    id: int
    user_id: str | None  # None: everyone
    message: Message
    created_at: datetime
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
    def state(self) -> str:
        """Queued, sending or done."""
        return "done" if not self.is_under_way else "sending" if self.outcomes else "queued"

    @property
    def expires_at(self) -> datetime:
        """When the TTL is over."""
        return self.message.expires_at(self.created_at)


def newest_ids(connection: Connection, limit: int) -> Sequence[int]:
    """Return the ids of the newest messages, newest first."""
    return connection.execute(select(_message.id).order_by(_message.id.desc()).limit(limit)).scalars().all()


def under_way_ids(connection: Connection) -> Sequence[int]:
    """Return the ids of messages with batches, newest first, at most MAX_UNDER_WAY.

    Skips from message to message by the index, since a broadcast has thousands of batches.
    """
    newest = select(func.max(_batch.message_id).label("id"), literal(1).label("number"))
    found = newest.cte("under_way", recursive=True)
    before = select(func.max(_batch.message_id)).where(_batch.message_id < found.c.id).scalar_subquery()
    found = found.union_all(
        select(before, found.c.number + 1).where(found.c.id.is_not(None), found.c.number < MAX_UNDER_WAY)
    )
    return connection.execute(select(found.c.id).where(found.c.id.is_not(None))).scalars().all()


def progress(connection: Connection, ids: Collection[int]) -> list[Progress]:
    """Return how far messages are, newest first; an id that does not exist is left out."""
    of_message = _batch.message_id == _message.id
    rows = connection.execute(
        select(
            *(_message.id, _message.user_id, _message.message, _message.created_at, _message.recipients),
            exists().where(of_message).label("is_under_way"),
            exists().where(of_message, _batch.size == FAN_OUT_PENDING).label("is_pending"),
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
            message=Message.from_dict(row.message),
            created_at=row.created_at,
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
    trusted = current_app.config["PUSH_TRUSTED_PUSH_SERVICES"]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for host, outcome, number in connection.execute(sums.group_by(_outcome.push_service, _outcome.outcome)):
        counts[push_service_of(host, trusted)][outcome] += int(number)
    return dict(sorted(counts.items(), key=lambda item: -item[1].total()))
