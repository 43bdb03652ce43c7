"""Cancelling: what is counted as cancelled was never sent, and the sums hold."""

import threading
import time
from typing import Any

import pytest
from flask import Flask

from pushapp import EVERYONE
from pushapp.database import transaction
from pushapp.sending import batches, claims, recording
from pushapp.webpush.responses import RETRY
from tests.conftest import signed_in
from tests.support.http import post
from tests.support.push_server import PushServer
from tests.support.sending import drain, enqueue, execute, scalar, status
from tests.support.threads import run_concurrently

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushapp.sending.recipients.BATCH_SIZE", 4)
    monkeypatch.setattr("pushapp.sending.recipients.PART_SIZE", 8)
    monkeypatch.setattr("pushapp.sending.delivery.RENEW_INTERVAL", 0.05)


def subscribe(app: Flask, push_server: PushServer, number: int, response: Any = None) -> None:
    for _ in range(number):
        post(signed_in(app, "alice"), push_server.subscription(response))


def cancel(app: Flask, message_id: int) -> None:
    with app.app_context(), transaction() as connection:
        batches.cancel(connection, message_id)


@pytest.mark.parametrize("to", ["alice", EVERYONE])
def test_a_message_that_no_worker_has_is_cancelled_at_once(
    app: Flask, push_server: PushServer, to: Any
) -> None:
    subscribe(app, push_server, 8)
    message_id = enqueue(app, to)
    for _ in range(2):
        cancel(app, message_id)
        found = status(app, message_id)
        assert (found.state, found.recipients, found.cancelled, found.pending) == ("cancelled", 8, 8, 0)
    drain(app)
    assert status(app, message_id) == found
    assert push_server.requests == 0


def test_a_fan_out_that_is_not_complete_stops(app: Flask, push_server: PushServer) -> None:
    subscribe(app, push_server, 20)
    message_id = enqueue(app, EVERYONE)
    with app.app_context():
        next(batches.fan_out(scalar(app, "SELECT id FROM push_batches")))
    cancel(app, message_id)
    drain(app)
    found = status(app, message_id)
    assert (found.recipients, found.cancelled, found.fan_out_complete) == (8, 8, True)
    assert push_server.requests == 0


@pytest.mark.parametrize(("response", "counted"), [(None, "sent"), ((503, {}, b""), "failed")])
def test_messages_in_flight_count_as_what_becomes_of_them_and_no_more_are_begun(
    app: Flask, push_server: PushServer, response: Any, counted: str
) -> None:
    subscribe(app, push_server, 30, response)
    message_id = enqueue(app, "alice")
    first = threading.Lock()

    def cancel_and_wait() -> None:
        if first.acquire(blocking=False):
            cancel(app, message_id)
        time.sleep(0.5)  # until the worker has noticed

    push_server.before_response = cancel_and_wait
    drain(app, concurrency=4)
    found = status(app, message_id)
    assert (found.state, found.pending) == ("cancelled", 0)
    assert 0 < push_server.requests <= 4
    assert getattr(found, counted) == push_server.requests
    assert found.cancelled == 30 - push_server.requests
    assert scalar(app, "SELECT count(*) FROM push_batches") == 0


def test_what_would_be_retried_has_failed(app: Flask, push_server: PushServer) -> None:
    subscribe(app, push_server, 3, (503, {"Retry-After": "60"}, b""))
    message_id = enqueue(app, "alice")
    drain(app)
    cancel(app, message_id)
    found = status(app, message_id)
    assert (found.failed, found.cancelled, found.pending) == (3, 0, 0)


def test_what_a_killed_worker_may_have_sent_has_failed_and_is_not_sent(
    app: Flask, push_server: PushServer
) -> None:
    subscribe(app, push_server, 8)
    message_id = enqueue(app, "alice")
    with app.app_context():
        assert claims.claim(scalar(app, "SELECT min(id) FROM push_batches"), owner=1)
    cancel(app, message_id)
    assert status(app, message_id).cancelled == 4
    execute(app, "UPDATE push_batches SET claimed_at = now() - interval '11 seconds'")
    drain(app)
    found = status(app, message_id)
    assert (found.cancelled, found.failed, found.pending) == (4, 4, 0)
    assert push_server.requests == 0


def test_a_retry_that_is_being_recorded_is_found(app: Flask, push_server: PushServer) -> None:
    subscribe(app, push_server, 1)
    message_id = enqueue(app, "alice")
    is_recorded = threading.Event()

    def record() -> None:
        with app.app_context():
            batch = claims.claim(scalar(app, "SELECT id FROM push_batches"), owner=1)
            assert batch
            with transaction() as connection:
                report = recording.Report([(batch.recipients[0], RETRY)])
                recording.record(connection, batch, 1, report)
                is_recorded.set()
                time.sleep(0.3)  # `cancel` waits for the commit

    def cancel_when_recorded() -> None:
        is_recorded.wait(5)
        cancel(app, message_id)

    run_concurrently(record, cancel_when_recorded)
    assert scalar(app, "SELECT count(*) FROM push_batches") == 0
    assert status(app, message_id).failed == 1


def test_a_fan_out_and_a_cancellation_at_once_end_in_exact_counts(
    app: Flask, push_server: PushServer
) -> None:
    subscribe(app, push_server, 30)
    for _ in range(5):
        message_id = enqueue(app, EVERYONE)
        batch_id = scalar(app, f"SELECT id FROM push_batches WHERE message_id = {message_id}")

        def fan_out(batch_id: int = batch_id) -> None:
            with app.app_context():
                list(batches.fan_out(batch_id))

        def cancel_soon(message_id: int = message_id) -> None:
            time.sleep(0.005)
            cancel(app, message_id)

        run_concurrently(fan_out, cancel_soon)
        found = status(app, message_id)
        assert (found.state, found.pending) == ("cancelled", 0)
        assert scalar(app, "SELECT count(*) FROM push_batches") == 0
