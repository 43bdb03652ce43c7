"""Delivery to several push services, of which some fail."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pushapp.sending.push_services import PushServices
from pushapp.webpush.client import Client
from pushapp.webpush.responses import Outcome
from pushapp.webpush.vapid import Signer
from tests.support.delivery import KEY_PAIR, MESSAGE, SUBJECT, options, recipient, results
from tests.support.push_server import PushServer


def push_services(*trusted: str) -> PushServices:
    return PushServices(Client(Signer(KEY_PAIR, SUBJECT).authorization, trusted))


async def send(delivery: PushServices, subscriptions: Sequence[dict[str, Any]]) -> list[Outcome]:
    recipients = [recipient(body, number) for number, body in enumerate(subscriptions)]
    return await delivery.deliver(recipients, MESSAGE.payload(), **options(MESSAGE))


def deliver(
    push_server: PushServer, subscriptions: Sequence[dict[str, Any]], rounds: int = 1
) -> list[Outcome]:
    async def run() -> list[Outcome]:
        async with push_services(push_server.origin) as delivery:
            return [outcome for _ in range(rounds) for outcome in await send(delivery, subscriptions)]

    return asyncio.run(run())


def test_the_circuit_opens_for_an_unavailable_push_service(push_server: PushServer) -> None:
    unavailable = [push_server.subscription((503, {}, b"")) for _ in range(20)]
    push_server.hold_responses_until(20)
    assert set(results(deliver(push_server, unavailable, rounds=3))) == {"retry"}
    assert push_server.requests == 20


def test_the_circuit_stays_open_for_retry_after(push_server: PushServer) -> None:
    rate_limited = [push_server.subscription((429, {"Retry-After": "120"}, b"")) for _ in range(12)]
    push_server.hold_responses_until(12)
    outcomes = deliver(push_server, rate_limited, rounds=2)
    assert push_server.requests == 12
    assert all(100 < (outcome.retry_after or 0) <= 120 for outcome in outcomes)


@pytest.fixture
def other() -> Iterator[PushServer]:
    """Another push service, that responds after 12 requests have been received."""
    other = PushServer()
    other.hold_responses_until(12)
    yield other
    other.close()
    assert other.errors == []


def test_an_unavailable_push_service_does_not_delay_another(
    push_server: PushServer, other: PushServer
) -> None:
    unavailable = [other.subscription((503, {}, b"")) for _ in range(12)]
    available = push_server.subscription()

    async def run() -> list[Outcome]:
        async with push_services(push_server.origin, other.origin) as delivery:
            await send(delivery, unavailable)
            return await send(delivery, [unavailable[0], available])

    assert results(asyncio.run(run())) == ["retry", "sent"]
    assert other.requests == 12


def test_the_number_of_tracked_push_services_is_bounded(
    push_server: PushServer, other: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.sending.push_services.MAX_TRACKED_ORIGINS", 1)
    unavailable, available = other.subscription((503, {}, b"")), push_server.subscription()

    async def run() -> None:
        async with push_services(push_server.origin, other.origin) as delivery:
            for bodies in [unavailable] * 12, [available], [unavailable]:
                await send(delivery, bodies)

    asyncio.run(run())
    assert other.requests == 12 + 1


def test_rejected_credentials_are_logged_once_without_secrets(
    push_server: PushServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    subscriptions = [push_server.subscription((403, {}, b"BadJwtToken")) for _ in range(20)]
    deliver(push_server, subscriptions)
    lines = [line for line in caplog.messages if "PUSH_VAPID_SUBJECT" in line]
    assert len(lines) == 1
    assert push_server.origin in lines[0]
    for subscription in subscriptions:
        assert subscription["endpoint"] not in caplog.text
        assert subscription["keys"]["auth"] not in caplog.text
