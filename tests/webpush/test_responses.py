"""Classification of push services' responses, and Retry-After (RFC 8030, RFC 9110)."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushapp.webpush.responses import Outcome, Result, classify_response, parse_retry_after


@pytest.mark.parametrize("status", [401, 403])
def test_a_rejected_authorization_is_a_credential_error(status: int) -> None:
    assert classify_response(status) == Outcome(Result.FAILED, is_subscription_error=False)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"reason":"VapidPkHashMismatch"}'),
        (
            403,
            b"the VAPID credentials in the authorization header do not correspond to the credentials used",
        ),
        (401, b"VAPID public key mismatch"),
        (413, b""),
        (302, b""),
    ],
)
def test_another_rejection_or_a_key_mismatch_is_a_subscription_error(status: int, body: bytes) -> None:
    assert classify_response(status, None, body) == Outcome(Result.FAILED, is_subscription_error=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("7", 7), (" 7 ", 7), ("999999999", 3_600), ("Thu, 01 Jan 1970 00:00:00 GMT", 0)],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float) -> None:
    assert parse_retry_after(text) == seconds


def test_retry_after_is_a_future_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < (parse_retry_after(date) or 0) <= 100
    assert parse_retry_after(format_datetime(datetime.now(UTC) + timedelta(days=3_650))) == 3_600


@pytest.mark.parametrize("text", [None, "", "soon", "-1", "1.5", "١", "9" * 500, "Fri, 99 Foo 2026", "\0"])
def test_an_invalid_retry_after_is_ignored(text: str | None) -> None:
    assert parse_retry_after(text) is None


@given(st.text())
def test_no_retry_after_raises_an_error(text: str) -> None:
    assert parse_retry_after(text) is None or 0 <= (parse_retry_after(text) or 0) <= 3_600
