"""Which messages are under way. Bounded queries by indexes: neither recipients nor old messages cost more."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime

from flask import current_app
from sqlalchemy import Connection, func, or_, select

from ..models import PushBatch, PushMessage, PushOutcome
from ..sending.batches import FAN_OUT_PENDING, IS_PENDING
from ..webpush.push_services import hosts_of, push_service_of

MAX_MESSAGES = 20  # under way, and as many scheduled
MAX_BATCHES = 10_000  # searched for messages under way, the earliest due
RECENT_MESSAGES = 500  # whose outcomes are summed by push service

_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c
_outcome = PushOutcome.__table__.c


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
