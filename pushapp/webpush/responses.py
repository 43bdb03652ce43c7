"""Delivery outcomes: what a push service's response means (RFC 8030)."""

import re
from enum import Enum, StrEnum, auto
from typing import NamedTuple

MAX_RETRY_AFTER = 60 * 60  # seconds
MAX_REASON_LENGTH = 200  # characters
WINDOWS_PUSH_SERVICE = ".notify.windows.com"  # the end of its host names

# 408 Request Timeout, 421 Misdirected Request, 425 Too Early, 429 Too Many Requests
_THROTTLED = (408, 421, 425, 429)
# Apple's, FCM's and Mozilla's words for a subscription that was made with another VAPID key, and FCM's for
# one that it does not know.
_INVALID_SUBSCRIPTION = re.compile(
    rb"VapidPkHashMismatch|do(?:es)? not correspond to the (?:credentials|sender id)|public key mismatch"
    rb"|invalid push subscription endpoint",
    re.IGNORECASE,
)
# URLs (with JSON's escaped slashes too), tokens, keys, and the identifiers in endpoints.
_SECRET = re.compile(
    r"""https?:[\\/]{2,}[^\s"'<>]+|[\w+/=~%.:-]{32,}|(?=[\w+/=-]*[0-9])[\w+/=-]{16,}""",
    re.ASCII | re.IGNORECASE,
)


class Result(StrEnum):
    """How the delivery of a message to one subscription ended, or that it is tried again."""

    SENT = "sent"
    GONE = "gone"
    RETRY = "retry"
    FAILED = "failed"
    EXPIRED = "expired"
    REPLACED = "replaced"


class Counted(Enum):
    """Whose failure an outcome is."""

    NOTHING = auto()
    SUBSCRIPTION = auto()
    PUSH_SERVICE = auto()


class Outcome(NamedTuple):
    """The outcome of one delivery attempt.

    `retry_after` is the Retry-After header in seconds, an hour at most, and 0 without one. `status` is 0
    without a response. `reason` is the beginning of the response's body, or the error of the connection: one
    line for the log, without endpoints and tokens. `is_multiplexed` says that the push service takes many
    messages at once over one connection.
    """

    result: Result
    retry_after: float = 0.0
    counts_against: Counted = Counted.NOTHING
    status: int = 0
    reason: str = ""
    is_multiplexed: bool = False

    @property
    def is_throttled(self) -> bool:
        """Whether the push service limits this subscription's messages (RFC 8030, section 8.4)."""
        return self.status != 0 and self.result is Result.RETRY and self.counts_against is Counted.NOTHING

    @property
    def credentials_rejected(self) -> bool:
        """Whether the push service rejected our VAPID credentials (RFC 8292, section 4.2)."""
        return self.status in (401, 403) and self.counts_against is Counted.NOTHING


SENT = Outcome(Result.SENT)
GONE = Outcome(Result.GONE)
RETRY = Outcome(Result.RETRY)


def no_response(reason: str = "") -> Outcome:
    """Return the outcome of an attempt without a response, or with one that is not HTTP."""
    return Outcome(Result.RETRY, counts_against=Counted.PUSH_SERVICE, reason=reason)


def classify_response(
    status: int,
    retry_after: float = 0.0,
    body: bytes = b"",
    *,
    host: str = "",
    is_multiplexed: bool = False,
) -> Outcome:
    """Return the outcome that a push service's response means (RFC 8030, sections 5 and 7).

    `retry_after` is the Retry-After header in seconds, 0 without one; `host` is the name of the push service
    in lower case; `is_multiplexed` says that the response came over HTTP/2.
    """
    if 200 <= status < 300:
        return Outcome(Result.SENT, status=status, is_multiplexed=is_multiplexed)
    if status in (404, 410):
        return Outcome(Result.GONE, status=status, is_multiplexed=is_multiplexed)
    result, counted = _meaning(status, body, host)
    seconds = min(retry_after, MAX_RETRY_AFTER) if result is Result.RETRY else 0.0
    return Outcome(result, seconds, counted, status, summarize(body), is_multiplexed)


def _meaning(status: int, body: bytes, host: str) -> tuple[Result, Counted]:
    if status in _THROTTLED or (status == 406 and host.endswith(WINDOWS_PUSH_SERVICE)):
        return Result.RETRY, Counted.NOTHING
    if status == 507:  # a self-hosted push service's answer for a subscription that it has given up
        return Result.RETRY, Counted.SUBSCRIPTION
    if status < 200 or status >= 500:
        return Result.RETRY, Counted.PUSH_SERVICE
    if status in (401, 403) and not _INVALID_SUBSCRIPTION.search(body):
        return Result.FAILED, Counted.NOTHING
    return Result.FAILED, Counted.SUBSCRIPTION


def summarize(body: bytes) -> str:
    """Return the beginning of a response's body as one line for the log, without endpoints and tokens."""
    text = body[: 10 * MAX_REASON_LENGTH].decode(errors="replace")
    text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(_SECRET.sub("…", text).split())[:MAX_REASON_LENGTH]
