"""The recipients of a message: which subscriptions an audience has, in parts of bounded size."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    func,
    not_,
    null,
    or_,
    select,
)

from ..channels import next_members
from ..dialects import is_one_of
from ..models import MAX_ID, PushChannelMember, PushMessage, PushSubscription
from .audience import Audience

BATCH_SIZE = 500  # recipients
PART_SIZE = 5 * BATCH_SIZE  # recipients of a part of everyone
MEMBERS_PER_PART = 2_000  # of a channel
NEWER_MESSAGES = 20  # with the same topic, to channels, lists and devices
USERS_PER_QUERY = 500  # few enough that PostgreSQL does not scan the table

T = TypeVar("T")

_column = PushSubscription.__table__.c
_message = PushMessage.__table__.c
_member = PushChannelMember.__table__.c


class Position(NamedTuple):
    """Where the next part of an audience begins."""

    first_id: int = 0  # of subscriptions; 0 only at the beginning
    after_user_id: str = ""  # of a channel's members


BEGINNING = Position()


class Part(NamedTuple):
    """Recipients as values of push_batches, and where the next part begins; None at the end."""

    batches: list[dict[str, Any]]
    next: Position | None

    @property
    def size(self) -> int:
        """Return the number of recipients."""
        return sum(batch["size"] for batch in self.batches)


def newest_id(connection: Connection) -> int:
    """Return the highest subscription id, or 0."""
    return connection.execute(select(func.max(_column.id))).scalar() or 0


def owner_of(connection: Connection, subscription_id: int) -> str | None:
    """Return the id of a subscription's user, or None."""
    return connection.execute(select(_column.user_id).where(_column.id == subscription_id)).scalar()


def next_part(
    connection: Connection,
    audience: Audience,
    now: datetime,
    position: Position = BEGINNING,
    last_id: int = MAX_ID,
) -> Part:
    """Return the next recipients of an audience, those with subscription ids up to `last_id`.

    Users and devices are one part. Subscriptions that expire before `now` are none.
    """
    if audience.channel is not None:
        return _members(connection, audience, audience.channel, now, position, last_id=last_id)
    if audience.is_broadcast:
        return _everyone(connection, audience, now, position, last_id)
    if audience.subscription_id is not None:
        found = [row.id for row in load(connection, audience, now, ids=[audience.subscription_id])]
    else:
        found = _of_users(connection, audience.user_ids or (), audience.exclude, now, last_id)
    return Part(_batches(found), None)


def load(
    connection: Connection,
    audience: Audience,
    now: datetime,
    *,
    first_id: int = 0,
    last_id: int = 0,
    ids: Sequence[int] | None = None,
) -> Sequence[Any]:
    """Return the recipients in a range, or with these ids, that are still active and the audience's."""
    if ids is None:
        selected = _column.id.between(first_id, last_id)
    else:
        selected = is_one_of(connection, _column.id, ids)
    if audience.channel is not None:
        membership = (_member.channel == audience.channel) & (_member.user_id == _column.user_id)
        selected = and_(selected, select(_member.user_id).where(membership).exists())
    if audience.user_ids is not None and len(audience.user_ids) == 1:
        selected = and_(selected, _column.user_id == audience.user_ids[0])
    rows = connection.execute(
        select(
            _column.id,
            _column.user_id,
            _column.endpoint,
            _column.keys_p256dh,
            _column.keys_auth,
            _column.vapid_key,
            _column.updated_at,
        )
        .where(selected, _active(now))
        .order_by(_column.id)
    ).all()
    users = None if audience.user_ids is None else frozenset(audience.user_ids)
    return [
        row for row in rows if (users is None or row.user_id in users) and row.user_id not in audience.exclude
    ]


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
    has_no_list = _message.audience.is_(null())
    to_user = newer.where(_message.user_id == _column.user_id, has_no_list).exists()
    to_everyone = newer.where(_message.user_id.is_(None), has_no_list).exists()
    found = select(_column.id).where(is_one_of(connection, _column.id, ids), or_(to_user, to_everyone))
    replaced_ids = set(connection.execute(found).scalars())
    others = newer.with_only_columns(_message.user_id, _message.audience).where(not_(has_no_list))
    for row in connection.execute(others.order_by(_message.id.desc()).limit(NEWER_MESSAGES)):
        replaced_ids.update(each.id for each in load(connection, Audience.from_row(*row), now, ids=ids))
    return replaced_ids


def _everyone(
    connection: Connection, audience: Audience, now: datetime, position: Position, last_id: int
) -> Part:
    found = (
        select(_column.id, _column.user_id)
        .where(_active(now), _column.id.between(position.first_id, last_id))
        .order_by(_column.id)
        .limit(PART_SIZE)
    )
    if audience.exclude:
        rows = connection.execute(found).all()
        included = [row.id for row in rows if row.user_id not in audience.exclude]
        return Part(_batches(included), Position(rows[-1].id + 1) if rows else None)
    # The database partitions: no ids are transferred.
    recipients = found.subquery()
    number = func.row_number().over(order_by=recipients.c.id) - 1
    numbered = select(recipients.c.id, (number // BATCH_SIZE).label("batch")).subquery()
    partition = (
        select(
            func.min(numbered.c.id).label("first_id"),
            func.max(numbered.c.id).label("last_id"),
            func.count().label("size"),
        )
        .group_by(numbered.c.batch)
        .order_by(numbered.c.batch)
    )
    batches = [{**row, "subscription_ids": None} for row in connection.execute(partition).mappings()]
    return Part(batches, Position(batches[-1]["last_id"] + 1) if batches else None)


def _members(
    connection: Connection,
    audience: Audience,
    channel: str,
    now: datetime,
    position: Position,
    *,
    last_id: int,
) -> Part:
    members = next_members(connection, channel, position.after_user_id, MEMBERS_PER_PART)
    found = _of_users(connection, members, audience.exclude, now, last_id)
    is_last = len(members) < MEMBERS_PER_PART
    return Part(_batches(found), None if is_last else Position(1, members[-1]))


def _of_users(
    connection: Connection, user_ids: Sequence[str], exclude: Collection[str], now: datetime, last_id: int
) -> list[int]:
    # By the index on users, whatever their number: the plan is that of USERS_PER_QUERY.
    included = (user_id for user_id in user_ids if user_id not in exclude)
    found: list[int] = []
    for chunk in _chunks(included, USERS_PER_QUERY):
        is_included = is_one_of(connection, _column.user_id, chunk)
        of_users = select(_column.id).where(is_included, _column.id <= last_id, _active(now))
        found.extend(connection.execute(of_users).scalars())
    return sorted(found)


def _batches(ids: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {"first_id": chunk[0], "last_id": chunk[-1], "size": len(chunk), "subscription_ids": chunk}
        for chunk in _chunks(ids, BATCH_SIZE)
    ]


def _chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _active(now: datetime) -> ColumnElement[bool]:
    return or_(_column.expires_at.is_(None), _column.expires_at > now)
