"""What became of a push, judged from the push service's answer (RFC 8030)."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

MAX_RETRY_AFTER = 60 * 60  # seconds: what a push service asks for beyond this is a mistake


class Result(StrEnum):
    """What became of a push."""

    SENT = "sent"
    GONE = "gone"
    AGAIN = "again"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a push, and what follows from it."""

    result: Result
    retry_after: float | None = None  # seconds that the push service asks for
    blames_subscription: bool = False  # it failed because of the subscription, not because of us


SENT = Outcome(Result.SENT)
GONE = Outcome(Result.GONE)
AGAIN = Outcome(Result.AGAIN)

# How push services say that a subscription was made with another key: Apple, FCM, Mozilla.
OTHER_KEY = re.compile(
    rb"VapidPkHashMismatch|do not correspond to the credentials|public key mismatch", re.IGNORECASE
)


def judge(status: int, retry_after: str | None = None, answer: bytes = b"") -> Outcome:
    """Say what became of a push from the push service's answer (RFC 8030, sections 5 and 7)."""
    if 200 <= status < 300:
        return SENT
    if status in (404, 410):
        return GONE
    if status == 429 or status >= 500:
        return Outcome(Result.AGAIN, parse_retry_after(retry_after))
    # 401 and 403 speak of our key, our subject or our clock, unless they speak of another key.
    ours = status in (401, 403) and not OTHER_KEY.search(answer)
    return Outcome(Result.FAILED, blames_subscription=not ours)


def parse_retry_after(text: str | None) -> float | None:
    """Return the seconds that a Retry-After asks for, from 0 to an hour; None for what is none."""
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", text.strip(), re.ASCII):
        seconds = float(text)
    else:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
