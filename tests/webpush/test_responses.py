"""Classification of push services' responses (RFC 8030)."""

import base64
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushapp.webpush.responses import (
    Counted,
    Outcome,
    Result,
    classify_response,
    no_response,
    summarize,
)

WINDOWS = "wns2-par02p.notify.windows.com"
FCM_MISMATCH = (
    b"the VAPID credentials in the authorization header do not correspond to the credentials used to create"
    b" the subscriptions."
)
RESPONSES = [
    ((200,), Result.SENT, Counted.NOTHING),
    ((201, 7, b"x"), Result.SENT, Counted.NOTHING),
    ((299,), Result.SENT, Counted.NOTHING),
    ((404,), Result.GONE, Counted.NOTHING),
    ((410,), Result.GONE, Counted.NOTHING),
    ((408,), Result.RETRY, Counted.NOTHING),
    ((421,), Result.RETRY, Counted.NOTHING),
    ((425,), Result.RETRY, Counted.NOTHING),
    ((429,), Result.RETRY, Counted.NOTHING),
    ((507,), Result.RETRY, Counted.SUBSCRIPTION),
    ((500,), Result.RETRY, Counted.PUSH_SERVICE),
    ((503,), Result.RETRY, Counted.PUSH_SERVICE),
    ((599,), Result.RETRY, Counted.PUSH_SERVICE),
    ((600,), Result.RETRY, Counted.PUSH_SERVICE),
    ((999,), Result.RETRY, Counted.PUSH_SERVICE),
    ((101,), Result.RETRY, Counted.PUSH_SERVICE),
    ((401,), Result.FAILED, Counted.NOTHING),
    ((403,), Result.FAILED, Counted.NOTHING),
    ((403, 0, b'{"reason":"BadJwtToken"}'), Result.FAILED, Counted.NOTHING),
    ((400,), Result.FAILED, Counted.SUBSCRIPTION),
    ((400, 0, b'{"reason":"VapidPkHashMismatch"}'), Result.FAILED, Counted.SUBSCRIPTION),
    ((403, 0, FCM_MISMATCH), Result.FAILED, Counted.SUBSCRIPTION),
    ((403, 0, b"the key in the authorization header does not correspond to the sender ID used to subscribe"
      b" this user."), Result.FAILED, Counted.SUBSCRIPTION),
    ((403, 0, b"invalid push subscription endpoint.\n"), Result.FAILED, Counted.SUBSCRIPTION),
    ((401, 0, b"VAPID public key mismatch"), Result.FAILED, Counted.SUBSCRIPTION),
    ((406,), Result.FAILED, Counted.SUBSCRIPTION),
    ((413,), Result.FAILED, Counted.SUBSCRIPTION),
    ((301,), Result.FAILED, Counted.SUBSCRIPTION),
    ((307,), Result.FAILED, Counted.SUBSCRIPTION),
]  # fmt: skip


@pytest.mark.parametrize(("response", "result", "counted"), RESPONSES)
def test_a_response_has_a_result_and_counts_against_who_failed(
    response: tuple[int, float, bytes], result: Result, counted: Counted
) -> None:
    outcome = classify_response(*response)
    assert (outcome.result, outcome.counts_against, outcome.status) == (result, counted, response[0])
    assert outcome.is_throttled == (response[0] in (408, 421, 425, 429))
    assert outcome.credentials_rejected == (response[0] in (401, 403) and counted is Counted.NOTHING)


def test_windows_push_throttles_with_406() -> None:
    outcome = classify_response(406, 60, host=WINDOWS)
    assert outcome == Outcome(Result.RETRY, 60.0, Counted.NOTHING, 406)
    assert outcome.is_throttled
    assert classify_response(406, host="notify.windows.com.example.net").result is Result.FAILED


def test_no_response_counts_against_the_push_service() -> None:
    outcome = no_response("connection refused")
    assert outcome == Outcome(Result.RETRY, 0, Counted.PUSH_SERVICE, 0, "connection refused")
    assert not outcome.is_throttled
    assert not Outcome(Result.RETRY, 5.0).is_throttled  # not attempted


def test_only_retries_have_a_delay() -> None:
    assert classify_response(503, 7).retry_after == 7
    assert classify_response(503, 3_601).retry_after == 3_600
    assert classify_response(413, 7).retry_after == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", ""),
        (b'{"reason":"BadJwtToken"}', '{"reason":"BadJwtToken"}'),
        (b'{"reason":"TooManyProviderTokenUpdates"}', '{"reason":"TooManyProviderTokenUpdates"}'),
        (b"one\r\ntwo\t three\0\x1b[31m", "one two three [31m"),
        ("Grüße\u202e\u2028\ufeff".encode(), "Grüße"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"Invalid URL: https://fcm.googleapis.com/fcm/send/abc.", "Invalid URL: …"),
        (rb'{"url":"https:\/\/web.push.apple.com\/QAbc","n":1}', '{"url":"…","n":1}'),
        (b"see HTTP://a.example/x<br>", "see …<br>"),
        (b"/fcm/send/dXk2lbPz9Qk:APA91bF" + b"x" * 100, "…"),
        (b"x " * 3_000, ("x " * 100)[:200]),
    ],
)
def test_a_reason_is_one_short_line_without_endpoints(body: bytes, reason: str) -> None:
    assert summarize(body) == reason
    assert classify_response(413, 0, body).reason == reason


@pytest.mark.parametrize("length", [24, 32, 65, 300])
def test_a_reason_holds_no_tokens(length: int) -> None:
    for _ in range(100):
        token = base64.urlsafe_b64encode(secrets.token_bytes(length)).decode().rstrip("=")
        assert token not in summarize(f"token {token}, endpoint /wpush/v2/{token}?t={token}".encode())


@given(st.binary(max_size=3_000))
def test_every_body_has_a_reason(body: bytes) -> None:
    reason = summarize(body)
    assert len(reason) <= 200
    assert reason.isprintable()
