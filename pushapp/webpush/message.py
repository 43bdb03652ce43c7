"""Push messages: payload, TTL, Urgency and Topic (RFC 8030, Declarative Web Push)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import urljoin

from . import message_checks as check

MAX_TTL = 28 * 24 * 60 * 60  # seconds; push services' maximum
DEFAULT_TTL = 24 * 60 * 60  # seconds
MAX_PLAINTEXT = 3993  # bytes: 4096 encrypted (RFC 8291, section 4)
PADDED_LENGTHS = (256, 512, 1024, 2048, MAX_PLAINTEXT)  # bytes
DECLARATIVE_WEB_PUSH = 8030  # the value of the member `web_push` (Push API, section 3.3)

# The names of the Notifications API
NOTIFICATION_MEMBERS = {
    "title": "title",
    "body": "body",
    "navigate": "navigate",
    "icon": "icon",
    "image": "image",
    "badge": "badge",
    "tag": "tag",
    "actions": "actions",
    "data": "data",
    "lang": "lang",
    "dir": "dir",
    "silent": "silent",
    "renotify": "renotify",
    "require_interaction": "requireInteraction",
    "timestamp": "timestamp",
    "vibrate": "vibrate",
}
URL_MEMBERS = ("navigate", "icon", "image", "badge")


class Urgency(StrEnum):
    """How soon a message should wake the device (RFC 8030, section 5.3)."""

    VERY_LOW = "very-low"
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class MessageError(ValueError):
    """Invalid message field: `field` names it, `reason` is a sentence for the user."""

    def __init__(self, field: str, reason: str):
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A notification, and the TTL (seconds), Urgency and Topic it is sent with.

    The fields up to `vibrate` are the notification's, as in the Notifications API; what is None is left out.
    `navigate` is the target of a click; it, `icon`, `image` and `badge` are paths, or http or https URLs.
    `actions` are buttons, each `{"action", "title", "navigate"?, "icon"?}`. `data` is any JSON, for the
    site's own worker. `timestamp` is in milliseconds since 1970. `app_badge` is the number on the
    application's icon; 0 removes it. A TTL is capped at 28 days.

    Raises MessageError for a field that is invalid, and for combinations that browsers reject
    (Notifications API, section 2.2).
    """

    title: str
    body: str | None = None
    navigate: str | None = None
    icon: str | None = None
    image: str | None = None
    badge: str | None = None
    tag: str | None = None
    actions: Sequence[Mapping[str, str]] | None = None
    data: Any = None
    lang: str | None = None
    dir: str | None = None
    silent: bool | None = None
    renotify: bool | None = None
    require_interaction: bool | None = None
    timestamp: int | None = None
    vibrate: int | Sequence[int] | None = None
    app_badge: int | None = None
    ttl: int = DEFAULT_TTL
    urgency: Urgency = Urgency.NORMAL
    topic: str | None = None

    def __post_init__(self) -> None:
        for name, check_value in check.CHECKS.items():
            value = getattr(self, name)
            if value is None and name not in ("title", "ttl"):
                continue
            try:
                check_value(value)
            except ValueError as error:
                raise MessageError(name, str(error)) from None
        if self.renotify and not self.tag:
            raise MessageError("renotify", "Needs a tag.")
        if self.silent and self.vibrate is not None:
            raise MessageError("silent", "A silent notification cannot vibrate.")
        object.__setattr__(self, "ttl", min(self.ttl, MAX_TTL))
        try:
            object.__setattr__(self, "urgency", Urgency(self.urgency))
        except ValueError:
            raise MessageError("urgency", f"Must be one of {', '.join(Urgency)}.") from None
        self.payload()

    def payload(self) -> bytes:
        """Return the declarative push message as JSON, padded to hide its length.

        Raises MessageError when it exceeds a push message.
        """
        document: dict[str, Any] = {
            "web_push": DECLARATIVE_WEB_PUSH,
            "notification": {
                member: value
                for name, member in NOTIFICATION_MEMBERS.items()
                if (value := getattr(self, name)) is not None
            },
        }
        if self.app_badge is not None:
            document["app_badge"] = self.app_badge
        payload = check.to_json(document)
        for length in PADDED_LENGTHS:
            if len(payload) <= length:
                return payload.ljust(length)
        raise MessageError(
            "notification", f"Must be at most {MAX_PLAINTEXT} bytes as JSON; it has {len(payload)}."
        )

    def with_absolute_urls(self, site_url: str) -> "Message":
        """Return this message with absolute URLs; one without `navigate` leads to the site's root.

        Declarative Web Push (Push API, section 3.3) demands them. Raises MessageError when they exceed a
        push message.
        """

        def absolute(values: Mapping[str, Any]) -> dict[str, Any]:
            return {
                name: urljoin(f"{site_url}/", url)
                for name in URL_MEMBERS
                if (url := values.get(name)) is not None
            }

        own = {name: getattr(self, name) for name in URL_MEMBERS} | {"navigate": self.navigate or "/"}
        actions = self.actions and [{**action, **absolute(action)} for action in self.actions]
        return replace(self, **absolute(own), actions=actions)

    def expires_at(self, created_at: datetime) -> datetime:
        """Return the expiry time of a message created at `created_at`."""
        return created_at + timedelta(seconds=self.ttl)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are not None as JSON values, for `from_dict`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Message":
        """Return the message that `to_dict` was called on."""
        return cls(**values)
