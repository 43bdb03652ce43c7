"""The audience of a message: queries on its recipients."""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from ..models import MAX_ID, PushMessage, PushSubscription

BATCH_SIZE = 250  # recipients

_column = PushSubscription.__table__.c
_message = PushMessage.__table__.c


class Everyone(Enum):
    """Sentinel: all users."""

    EVERYONE = "everyone"


EVERYONE: Final = Everyone.EVERYONE


class Range(NamedTuple):
    """An inclusive range of subscription ids, and how many recipients are in it."""

    first_id: int
    last_id: int
    size: int


def newest_id(connection: Connection) -> int:
    """Return the highest subscription id, or 0."""
    return connection.execute(select(func.max(_column.id))).scalar() or 0


def ranges(
    connection: Connection,
    user_id: str | None,
    *,
    first_id: int = 0,
    last_id: int = MAX_ID,
    limit: int | None = None,
) -> list[Range]:
    """Partition a user's subscriptions, or all, into ranges of BATCH_SIZE recipients, `limit` in all.

    The database partitions: no ids are transferred.
    """
    recipients = (
        select(_column.id)
        .where(_active(user_id), _column.id.between(first_id, last_id))
        .order_by(_column.id)
        .limit(limit)
        .subquery()
    )
    number = func.row_number().over(order_by=recipients.c.id) - 1
    numbered = select(recipients.c.id, (number // BATCH_SIZE).label("batch")).subquery()
    partition = (
        select(func.min(numbered.c.id), func.max(numbered.c.id), func.count())
        .group_by(numbered.c.batch)
        .order_by(numbered.c.batch)
    )
    return [Range(*row) for row in connection.execute(partition)]


def load_recipients(
    connection: Connection, user_id: str | None, first_id: int, last_id: int, ids: Sequence[int] | None
) -> Sequence[Any]:
    """Return the recipients in a range, or with these ids, that are still active and the user's."""
    selected = _column.id.between(first_id, last_id) if ids is None else _column.id.in_(ids)
    return connection.execute(
        select(
            _column.id,
            _column.endpoint,
            _column.keys_p256dh,
            _column.keys_auth,
            _column.vapid_key,
            _column.updated_at,
        )
        .where(selected, _active(user_id))
        .order_by(_column.id)
    ).all()


def replaced(
    connection: Connection, message_id: int, topic: str, ids: Sequence[int], now: datetime
) -> set[int]:
    """Return which recipients get a newer message with the same topic (RFC 8030, section 5.4).

    One that is cancelled, or scheduled for later than `now`, replaces none.
    """
    newer = select(_message.id).where(
        _message.topic == topic,
        _message.id > message_id,
        _message.cancelled_at.is_(None),
        or_(_message.send_at.is_(None), _message.send_at <= now),
    )
    to_user = newer.where(_message.user_id == _column.user_id).exists()
    to_everyone = newer.where(_message.user_id.is_(None)).exists()
    found = select(_column.id).where(_column.id.in_(ids), or_(to_user, to_everyone))
    return set(connection.execute(found).scalars())


def _active(user_id: str | None) -> ColumnElement[bool]:
    not_expired = or_(_column.expires_at.is_(None), _column.expires_at > datetime.now(UTC))
    return not_expired if user_id is None else and_(not_expired, _column.user_id == user_id)
