"""Push messages: payload, TTL, Urgency and Topic (RFC 8030, Declarative Web Push)."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

MAX_TTL = 28 * 24 * 60 * 60  # seconds; push services' maximum
DEFAULT_TTL = 24 * 60 * 60  # seconds
MAX_PLAINTEXT = 3993  # bytes: 4096 encrypted (RFC 8291, section 4)
PADDED_LENGTHS = (256, 512, 1024, 2048, MAX_PLAINTEXT)  # bytes
DECLARATIVE_WEB_PUSH = 8030  # the value of the member `web_push` (Push API, section 3.3)

_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")


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

    `navigate` is the target of a click: a path, or an http or https URL. `actions` are buttons, each
    `{"action", "title", "navigate"?, "icon"?}`. `data` is any JSON, for the site's own worker. A TTL is
    capped at 28 days.

    Raises MessageError.
    """

    title: str
    body: str | None = None
    navigate: str | None = None
    icon: str | None = None
    tag: str | None = None
    actions: Sequence[Mapping[str, str]] | None = None
    data: Any = None
    ttl: int = DEFAULT_TTL
    urgency: Urgency = Urgency.NORMAL
    topic: str | None = None

    def __post_init__(self) -> None:
        if not self.title:
            raise MessageError("title", "Must not be empty.")
        for field in ("navigate", "icon"):
            _check_url(field, getattr(self, field))
        for action in self.actions or ():
            if not action.get("action") or not action.get("title"):
                raise MessageError("actions", "Each must have an action and a title.")
            for name in ("navigate", "icon"):
                _check_url("actions", action.get(name))
        if self.ttl < 0:
            raise MessageError("ttl", "Must not be negative.")
        object.__setattr__(self, "ttl", min(self.ttl, MAX_TTL))
        try:
            object.__setattr__(self, "urgency", Urgency(self.urgency))
        except ValueError:
            raise MessageError("urgency", f"Must be one of {', '.join(Urgency)}.") from None
        if self.topic is not None and not _TOPIC.fullmatch(self.topic):
            raise MessageError("topic", "Must be 1 to 32 characters of base64url.")
        self.payload()

    def payload(self) -> bytes:
        """Return the declarative push message as JSON, padded to hide its length.

        Raises MessageError when it exceeds a push message.
        """
        shown = ("title", "body", "navigate", "icon", "tag", "actions", "data")
        notification = {name: value for name in shown if (value := getattr(self, name)) is not None}
        document = {"web_push": DECLARATIVE_WEB_PUSH, "notification": notification}
        try:
            payload = json.dumps(
                document, ensure_ascii=False, separators=(",", ":"), allow_nan=False
            ).encode()
        except (TypeError, ValueError):  # lone surrogates included
            raise MessageError("notification", "Must be JSON-serializable and valid UTF-8.") from None
        for length in PADDED_LENGTHS:
            if len(payload) <= length:
                return payload.ljust(length)
        raise MessageError(
            "notification", f"Must be at most {MAX_PLAINTEXT} bytes as JSON; it has {len(payload)}."
        )

    def expires_at(self, created_at: datetime) -> datetime:
        """Return the expiry time of a message created at `created_at`."""
        return created_at + timedelta(seconds=self.ttl)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values, for `from_dict`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Message":
        """Return the message that `to_dict` was called on."""
        return cls(**values)


def _check_url(field: str, url: str | None) -> None:
    if url is None:
        return
    try:
        parts = urlsplit(url)
    except ValueError:
        raise MessageError(field, "Must be a path, or an http or https URL.") from None
    if parts.scheme not in ("", "http", "https") or (parts.scheme and not parts.netloc):
        raise MessageError(field, "Must be a path, or an http or https URL.")
