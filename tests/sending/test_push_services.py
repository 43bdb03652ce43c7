"""What delivery learns of a push service: failures, limits, speed; and what it logs."""

import logging
import time

import pytest

from pushapp.circuit_breaker import CallRejectedError
from pushapp.sending.push_services import PushService, PushServices
from pushapp.webpush.responses import Outcome, classify_response, no_response

ORIGIN = "https://push.example.net"
THROTTLED = classify_response(429, 120)


@pytest.fixture
def push_service() -> PushService:
    return PushService(ORIGIN)


def respond(push_service: PushService, outcome: Outcome, recipient_id: int = 1, seconds: float = 0) -> None:
    push_service.end(push_service.begin() - seconds, recipient_id, outcome)


def retry_after(push_service: PushService) -> float | None:
    """Return the seconds until the circuit is half-open; None if it is closed."""
    try:
        with push_service.breaker.call():
            return None
    except CallRejectedError as error:
        return error.retry_after


@pytest.mark.parametrize("outcome", [classify_response(503, 120), no_response("refused")])
def test_ten_failures_in_a_row_open_the_circuit_for_ten_seconds(
    push_service: PushService, outcome: Outcome
) -> None:
    for _ in range(9):
        respond(push_service, outcome)
    assert retry_after(push_service) is None
    respond(push_service, outcome)
    assert 9 < (retry_after(push_service) or 0) <= 10  # Retry-After is the recipient's


def test_a_whole_connect_timeout_opens_the_circuit_at_once(push_service: PushService) -> None:
    respond(push_service, no_response("timed out"), seconds=5)
    assert retry_after(push_service)


@pytest.mark.parametrize("status", [201, 404, 410, 413, 400])
def test_a_response_resets_the_failures(push_service: PushService, status: int) -> None:
    for _ in range(2):
        for _ in range(9):
            respond(push_service, classify_response(503))
        respond(push_service, classify_response(status))
    assert retry_after(push_service) is None


@pytest.mark.parametrize("status", [507, 429])
def test_what_counts_against_subscriptions_neither_opens_nor_closes_the_circuit(
    push_service: PushService, status: int
) -> None:
    for _ in range(20):
        respond(push_service, classify_response(status))
    assert retry_after(push_service) is None
    for _ in range(9):
        respond(push_service, classify_response(503))
    respond(push_service, classify_response(status))
    respond(push_service, classify_response(503))
    assert retry_after(push_service)


class TestThrottling:
    def test_of_one_subscription_does_not_slow_down_the_push_service(self, push_service: PushService) -> None:
        for _ in range(100):
            respond(push_service, THROTTLED, recipient_id=1)
            respond(push_service, THROTTLED, recipient_id=2)
        assert retry_after(push_service) is None

    def test_of_three_subscriptions_opens_the_circuit_for_retry_after(
        self, push_service: PushService
    ) -> None:
        for recipient_id in range(3):
            respond(push_service, THROTTLED, recipient_id)
        assert 119 < (retry_after(push_service) or 0) <= 120

    def test_is_of_subscriptions_while_others_are_accepted(self, push_service: PushService) -> None:
        for recipient_id in range(100):
            respond(push_service, THROTTLED, recipient_id)
            respond(push_service, classify_response(201), 1_000)
        assert retry_after(push_service) is None


class TestSpeed:
    def test_is_slow_until_it_responds(self, push_service: PushService) -> None:
        assert push_service.is_slow
        respond(push_service, no_response("refused"))
        assert push_service.is_slow
        respond(push_service, classify_response(503))
        assert not push_service.is_slow

    def test_is_slow_after_a_response_of_more_than_a_second(self, push_service: PushService) -> None:
        respond(push_service, classify_response(201), seconds=1.1)
        assert push_service.is_slow

    def test_is_slow_after_a_second_without_a_response_to_messages_in_flight(
        self, push_service: PushService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        respond(push_service, classify_response(201))
        push_service.begin()
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 0.9)
        push_service.check()
        assert not push_service.is_slow
        monkeypatch.setattr(time, "monotonic", lambda: now + 1.1)
        push_service.check()
        assert push_service.is_slow


class TestLog:
    @pytest.fixture(autouse=True)
    def level(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)

    def test_repeats_a_line_once_a_minute(
        self, push_service: PushService, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(20):
            respond(push_service, classify_response(403, body=b"BadJwtToken"))
        (line,) = caplog.messages
        assert ORIGIN in line
        assert "status 403: BadJwtToken: check PUSH_VAPID_PRIVATE_KEY" in line
        assert caplog.records[0].levelname == "ERROR"

    def test_one_kind_of_line_does_not_hide_another(
        self, push_service: PushService, caplog: pytest.LogCaptureFixture
    ) -> None:
        for status in (413, 403, 503, 429, 413, 403):
            respond(push_service, classify_response(status, body=b"the reason"))
        respond(push_service, no_response("refused"))
        assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR", *["WARNING"] * 3]
        assert all("the reason" in line for line in caplog.messages[:4])

    def test_says_nothing_of_messages_that_are_sent_or_of_gone_subscriptions(
        self, push_service: PushService, caplog: pytest.LogCaptureFixture
    ) -> None:
        for status in (201, 404, 410):
            respond(push_service, classify_response(status))
        assert caplog.messages == []


class TestPushServices:
    def test_are_told_apart_by_origin(self) -> None:
        push_services = PushServices()
        first = push_services.of("https://a.example.net/1")
        assert push_services.of("HTTPS://A.example.net/2") is first
        assert push_services.of("https://a.example.net:8443/1") is not first
        assert push_services.of("no URL") is not first

    def test_the_least_recently_used_are_dropped_unless_they_have_messages(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pushapp.sending.push_services.MAX_TRACKED", 3)
        push_services = PushServices()
        busy, old, used = (push_services.of(f"https://{name}.example.net/") for name in ("a", "b", "c"))
        busy.begin()
        push_services.of(used.origin + "/")
        push_services.of("https://d.example.net/")
        assert push_services.of(busy.origin + "/") is busy
        assert push_services.of(used.origin + "/") is used
        assert push_services.of(old.origin + "/") is not old
