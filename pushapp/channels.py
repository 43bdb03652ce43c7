"""Channels: names that users join, and their members."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, delete, select

from .database import autocommit
from .dialects import INSERTS
from .models import PushChannelMember, normalize_user_id
from .setting_checks import CHANNEL_NAME

_table = PushChannelMember.__table__
_column = _table.c


@dataclass(frozen=True, slots=True)
class Channel:
    """An audience: the users that have joined a channel.

    Raises ValueError unless the name is 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`.
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not CHANNEL_NAME.fullmatch(self.name):
            raise ValueError("A channel's name must be 1 to 64 of a-z, 0-9, '.', '_' and '-'.")


def join(user: str | int | UUID, channel: str) -> None:
    """Make a user a member of a channel, with all subscriptions, later ones included.

    Raises ValueError for an invalid user id or name.
    """
    member = _member(user, channel)
    with autocommit() as connection:
        insert = INSERTS[connection.dialect.name](_table).values(member)
        connection.execute(insert.on_conflict_do_nothing())


def leave(user: str | int | UUID, channel: str) -> None:
    """End a user's membership of a channel, if there is one.

    Raises ValueError for an invalid user id or name.
    """
    member = _member(user, channel)
    with autocommit() as connection:
        connection.execute(delete(_table).filter_by(**member))


def channels_of(user: str | int | UUID) -> list[str]:
    """Return the names of the channels that a user has joined, in alphabetical order.

    Raises ValueError for an invalid user id.
    """
    with autocommit() as connection:
        joined = select(_column.channel).where(_column.user_id == _user_id(user))
        return sorted(connection.execute(joined).scalars())


def next_members(connection: Connection, channel: str, after: str, limit: int) -> Sequence[str]:
    """Return the next members of a channel after a user id, in the order of the index."""
    members = select(_column.user_id).where(_column.channel == channel, _column.user_id > after)
    return connection.execute(members.order_by(_column.user_id).limit(limit)).scalars().all()


def _member(user: str | int | UUID, channel: str) -> dict[str, str]:
    return {"channel": Channel(channel).name, "user_id": _user_id(user)}


def _user_id(user: str | int | UUID) -> str:
    user_id = normalize_user_id(user)
    if user_id is None:
        raise ValueError("The user's id must be 1 to 255 characters, and no control characters.")
    return user_id
