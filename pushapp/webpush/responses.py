"""Delivery outcomes: what a push service's response means (RFC 8030)."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

MAX_RETRY_AFTER = 60 * 60  # seconds


class Result(StrEnum):
    """The kinds of delivery outcomes."""

    SENT = "sent"
    GONE = "gone"
    RETRY = "retry"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one delivery attempt."""

    result: Result
    retry_after: float | None = None  # seconds, from the Retry-After header
    is_subscription_error: bool = False  # failed because of the subscription, not of our credentials


SENT = Outcome(Result.SENT)
GONE = Outcome(Result.GONE)
RETRY = Outcome(Result.RETRY)

# Apple, FCM and Mozilla, for a subscription that was made with another VAPID key.
VAPID_KEY_MISMATCH = re.compile(
    rb"VapidPkHashMismatch|do not correspond to the credentials|public key mismatch", re.IGNORECASE
)


def classify_response(status: int, retry_after: str | None = None, body: bytes = b"") -> Outcome:
    """Return the outcome that a push service's response means (RFC 8030, sections 5 and 7)."""
    if 200 <= status < 300:
        return SENT
    if status in (404, 410):
        return GONE
    if status == 429 or status >= 500:
        return Outcome(Result.RETRY, parse_retry_after(retry_after))
    # 401 and 403 mean our VAPID credentials, unless the body reports a key mismatch.
    credentials_rejected = status in (401, 403) and not VAPID_KEY_MISMATCH.search(body)
    return Outcome(Result.FAILED, is_subscription_error=not credentials_rejected)


def parse_retry_after(text: str | None) -> float | None:
    """Return a Retry-After header in seconds, from 0 to an hour; None if it is absent or invalid."""
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", text.strip(), re.ASCII):
        seconds = float(text)
    else:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
