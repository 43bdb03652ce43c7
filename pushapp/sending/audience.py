"""Audiences: whom a message is for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeGuard
from uuid import UUID

from ..channels import Channel
from ..models import MAX_ID, normalize_user_id
from ..webpush.message import MessageError

MAX_USERS = 10_000  # of a list


class Everyone(Enum):
    """Sentinel: all users."""

    EVERYONE = "everyone"


EVERYONE: Final = Everyone.EVERYONE


@dataclass(frozen=True, slots=True)
class Device:
    """An audience: one subscription, by its id.

    Raises ValueError unless the id is an integer.
    """

    id: int

    def __post_init__(self) -> None:
        if not isinstance(self.id, int) or isinstance(self.id, bool) or not 0 <= self.id <= MAX_ID:
            raise ValueError("A device's id must be an integer, the id of its subscription.")


User = str | int | UUID  # the id of a user
To = User | Collection[User] | Channel | Device | Everyone


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """Users, the members of a channel, or one subscription, and who is left out; else everyone."""

    user_ids: tuple[str, ...] | None = None
    channel: str | None = None
    subscription_id: int | None = None
    exclude: frozenset[str] = frozenset()

    @classmethod
    def of(cls, to: To, exclude: Collection[User] = ()) -> "Audience":
        """Return the audience that the arguments of `send` describe.

        Raises MessageError.
        """
        if not _is_list(exclude):
            raise MessageError("exclude", "Must be a list of users' ids.")
        excluded = frozenset(_user_ids("exclude", exclude))
        if to is EVERYONE:
            return cls(exclude=excluded)
        if isinstance(to, Channel):
            return cls(channel=to.name, exclude=excluded)
        if isinstance(to, Device):
            return cls(subscription_id=to.id, exclude=excluded)
        return cls(user_ids=_user_ids("to", to if _is_list(to) else [to]), exclude=excluded)

    @classmethod
    def from_row(cls, user_id: str | None, audience: Mapping[str, Any] | None) -> "Audience":
        """Return the audience that is stored in a row of push_messages."""
        if audience is None:
            return cls(user_ids=None if user_id is None else (user_id,))
        return cls(
            user_ids=tuple(audience["user_ids"]) if "user_ids" in audience else None,
            channel=audience.get("channel"),
            subscription_id=audience.get("subscription_id"),
            exclude=frozenset(audience.get("exclude", ())),
        )

    def to_row(self) -> dict[str, Any]:
        """Return the values of push_messages for `from_row`; one user, and everyone, need no JSON."""
        members = {
            "user_ids": self.user_ids,
            "channel": self.channel,
            "subscription_id": self.subscription_id,
            "exclude": sorted(self.exclude) or None,
        }
        audience = {name: value for name, value in members.items() if value is not None}
        user_id = self.user_ids[0] if self.user_ids and len(self.user_ids) == 1 else None
        return {"user_id": user_id, "audience": None if user_id and not self.exclude else audience or None}

    def __str__(self) -> str:
        """Return whom it is, without the names of users."""
        if self.user_ids is not None:
            to = _count_users(len(self.user_ids))
        elif self.channel is not None:
            to = f"channel {self.channel}"
        else:
            to = "everyone" if self.subscription_id is None else "one device"
        return f"{to} (excluding {_count_users(len(self.exclude))})" if self.exclude else to

    @property
    def is_broadcast(self) -> bool:
        """Whether the number of recipients is not limited."""
        return self.user_ids is None and self.subscription_id is None

    @property
    def is_direct(self) -> bool:
        """Whether the message is to one user."""
        return self.subscription_id is not None or (self.user_ids is not None and len(self.user_ids) == 1)


def _count_users(number: int) -> str:
    return "one user" if number == 1 else f"{number:,} users"


def _is_list(users: object) -> TypeGuard[Collection[Any]]:
    return isinstance(users, Collection) and not isinstance(users, str | bytes | Mapping)


def _user_ids(field: str, users: Collection[Any]) -> tuple[str, ...]:
    if len(users) > MAX_USERS:
        raise MessageError(field, f"Must be at most {MAX_USERS} users.")
    user_ids = {normalize_user_id(user): None for user in users}
    if None in user_ids:
        raise MessageError(field, "Must be a user's id of 1 to 255 characters, without control characters.")
    return tuple(user_id for user_id in user_ids if user_id is not None)
