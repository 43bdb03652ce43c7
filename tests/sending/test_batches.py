"""Batches: fan-out of broadcasts, outcomes, retries and failures, on both databases."""

import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from pushapp import EVERYONE, Message
from pushapp.database import engine, transaction
from pushapp.sending import batches, claims, recipients, recording
from pushapp.webpush.responses import RETRY, SENT
from tests.conftest import signed_in
from tests.support.http import post, rows
from tests.support.push_server import PushServer
from tests.support.sending import counts, drain, enqueue, execute, queued_only, scalar, send, status
from tests.support.subscriptions import subscription
from tests.support.threads import run_concurrently


class TestBroadcast:
    @pytest.fixture(autouse=True)
    def small_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fan out batches of 2, two in a transaction, and count recipients up to the first chunk."""
        monkeypatch.setattr("pushapp.sending.recipients.BATCH_SIZE", 2)
        monkeypatch.setattr("pushapp.sending.recipients.PART_SIZE", 4)

    def test_reaches_all_recipients_once_over_several_chunks(
        self, app: Flask, push_server: PushServer
    ) -> None:
        bodies = [push_server.subscription() for _ in range(11)]
        for number, body in enumerate(bodies):
            post(signed_in(app, f"user {number}"), body)
        found = send(app, EVERYONE)
        assert (found.state, found.recipients, found.fan_out_complete) == ("done", 11, True)
        assert counts(found) == (11, 0, 0)
        assert all(len(push_server.pushes_to(body)) == 1 for body in bodies)

    @queued_only
    def test_is_resumed_after_an_interrupted_fan_out(self, app: Flask, push_server: PushServer) -> None:
        for number in range(11):
            post(signed_in(app, f"user {number}"), push_server.subscription())
        message_id = enqueue(app, EVERYONE)
        assert not status(app, message_id).fan_out_complete
        with app.app_context():
            next(batches.fan_out(scalar(app, "SELECT id FROM push_batches")))  # the first chunk only
        assert status(app, message_id).recipients == 4
        drain(app)
        assert counts(status(app, message_id)) == (11, 0, 0)
        assert push_server.requests == 11

    @queued_only
    def test_is_fanned_out_once_by_concurrent_workers(
        self, app: Flask, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(11):
            post(signed_in(app, f"user {number}"), push_server.subscription())
        message_id = enqueue(app, EVERYONE)
        batch_id = scalar(app, "SELECT id FROM push_batches")
        both_have_read = threading.Barrier(2)
        next_part = recipients.next_part

        def wait_for_other_thread(*arguments: Any, **options: Any) -> recipients.Part:
            with suppress(threading.BrokenBarrierError):  # expected: the row lock lets one thread read
                both_have_read.wait(0.3)
            return next_part(*arguments, **options)

        def fan_out() -> None:
            with app.app_context():
                list(batches.fan_out(batch_id))

        monkeypatch.setattr("pushapp.sending.batches.recipients.next_part", wait_for_other_thread)
        run_concurrently(fan_out, fan_out)
        with app.app_context(), engine().connect() as connection:
            found = connection.execute(text("SELECT first_id, last_id FROM push_batches")).all()
        batched = [row.id for first, last in found for row in rows(app) if first <= row.id <= last]
        assert sorted(batched) == [row.id for row in rows(app)]
        assert status(app, message_id).recipients == 11

    @queued_only
    def test_does_not_delay_a_message_to_one_user(self, app: Flask, push_server: PushServer) -> None:
        for number in range(9):
            post(signed_in(app, f"user {number}"), push_server.subscription())
        enqueue(app, EVERYONE, Message(title="broadcast"))
        with app.app_context():
            list(batches.fan_out(scalar(app, "SELECT id FROM push_batches")))
        enqueue(app, "user 8", Message(title="direct"))
        drain(app)
        titles = [push.message["notification"]["title"] for push in push_server.pushes]
        assert titles.index("direct") <= 4  # batches in flight may have been faster


def subscribe(app: Flask, push_server: PushServer, response: Any = None) -> dict[str, Any]:
    body = push_server.subscription(response)
    post(signed_in(app, "alice"), body)
    return body


@pytest.mark.parametrize("code", [404, 410])
def test_a_gone_subscription_is_deleted(app: Flask, push_server: PushServer, code: int) -> None:
    subscribe(app, push_server, (code, {}, b""))
    other = subscribe(app, push_server)
    assert counts(send(app, "alice")) == (1, 1, 0)
    assert [row.endpoint for row in rows(app)] == [other["endpoint"]]


def test_a_subscription_updated_meanwhile_is_not_deleted(app: Flask, push_server: PushServer) -> None:
    body = push_server.subscription()
    updated = subscription(endpoint=body["endpoint"])
    path = body["endpoint"].removeprefix(push_server.origin)
    post(signed_in(app, "alice"), body)
    push_server.responses[path] = (410, {}, b"")
    push_server.before_response = lambda: post(signed_in(app, "alice"), updated)
    assert counts(send(app, "alice")) == (0, 1, 0)
    (row,) = rows(app)
    assert row.keys_auth == updated["keys"]["auth"]


@pytest.mark.parametrize(
    "response", [(429, {"Retry-After": "0"}, b""), (500, {}, b""), (503, {}, b""), b"", b"garbage"]
)
def test_a_transient_failure_is_retried(app: Flask, push_server: PushServer, response: Any) -> None:
    body = push_server.subscription()
    path = body["endpoint"].removeprefix(push_server.origin)
    push_server.transient_responses[path] = [response, response]
    post(signed_in(app, "alice"), body)
    message_id = enqueue(app, "alice")
    for _ in range(40):
        drain(app)
        if status(app, message_id).state == "done":
            break
    assert status(app, message_id).state == "done"
    assert counts(status(app, message_id)) == (1, 0, 0)
    assert push_server.requests == 3
    assert len(rows(app)) == 1


def test_a_message_is_not_retried_after_its_ttl(app: Flask, push_server: PushServer) -> None:
    subscribe(app, push_server, (503, {}, b""))
    found = send(app, "alice", Message(title="x", ttl=0))
    assert (found.state, counts(found)) == ("done", (0, 0, 1))
    assert push_server.requests == 1
    assert len(rows(app)) == 1


def test_a_rejected_message_is_counted_and_not_retried(app: Flask, push_server: PushServer) -> None:
    subscribe(app, push_server, (413, {}, b""))
    assert counts(send(app, "alice")) == (0, 0, 1)
    assert push_server.requests == 1
    assert scalar(app, "SELECT failures FROM push_failures") == 1


def test_three_failures_over_more_than_a_day_delete_a_subscription(
    app: Flask, push_server: PushServer
) -> None:
    subscribe(app, push_server, (400, {}, b'{"reason": "VapidPkHashMismatch"}'))
    for _ in range(4):
        send(app, "alice")
    assert len(rows(app)) == 1  # enough failures, but not for a day
    execute(
        app,
        "UPDATE push_failures SET failures = 1, since = :then",
        then=datetime.now(UTC) - timedelta(days=2),
    )
    send(app, "alice")
    assert len(rows(app)) == 1  # for more than a day, but too few failures
    send(app, "alice")
    assert rows(app) == []


def test_a_success_resets_the_failures(app: Flask, push_server: PushServer) -> None:
    body = subscribe(app, push_server, (413, {}, b""))
    for _ in range(3):
        send(app, "alice")
    path = body["endpoint"].removeprefix(push_server.origin)
    rejection = push_server.responses.pop(path)
    send(app, "alice")
    assert scalar(app, "SELECT count(*) FROM push_failures") == 0
    push_server.responses[path] = rejection
    send(app, "alice")
    assert scalar(app, "SELECT failures FROM push_failures") == 1


@pytest.mark.parametrize("code", [401, 403])
def test_rejected_credentials_are_not_a_failure_of_the_subscription(
    app: Flask, push_server: PushServer, code: int
) -> None:
    subscribe(app, push_server, (code, {}, b"bad token"))
    assert counts(send(app, "alice")) == (0, 0, 1)
    assert scalar(app, "SELECT count(*) FROM push_failures") == 0


@queued_only
def test_a_subscription_deleted_before_delivery_is_counted_as_gone(
    app: Flask, push_server: PushServer
) -> None:
    subscribe(app, push_server)
    message_id = enqueue(app, "alice")
    execute(app, "DELETE FROM push_subscriptions")
    drain(app)
    assert counts(status(app, message_id)) == (0, 1, 0)


@queued_only
def test_a_reassigned_browser_gets_no_message_of_its_first_user(app: Flask, push_server: PushServer) -> None:
    body = subscribe(app, push_server)
    enqueue(app, "alice", Message(title="for alice"))
    post(signed_in(app, "bob"), body)
    drain(app)
    assert push_server.pushes == []


@queued_only
def test_outcomes_of_a_batch_are_recorded_once(app: Flask, push_server: PushServer) -> None:
    for _ in range(3):
        subscribe(app, push_server)
    message_id = enqueue(app, "alice")
    with app.app_context():
        batch = claims.claim(scalar(app, "SELECT id FROM push_batches"), owner=1)
        assert batch is not None
        outcomes = list(zip(batch.recipients, [SENT, SENT, RETRY], strict=True))
        recorded = []
        for _ in range(2):  # by two threads of a worker, or two workers
            with transaction() as connection:
                recorded.append(recording.record(connection, batch, 1, recording.Report(outcomes)))
    assert recorded == [{"sent": 2, "later": 1}, None]
    assert counts(status(app, message_id)) == (2, 0, 0)
    assert scalar(app, "SELECT count(*) FROM push_batches") == 1


def test_outcomes_are_counted_by_push_service(app: Flask, push_server: PushServer) -> None:
    subscribe(app, push_server)
    subscribe(app, push_server, (410, {}, b""))
    send(app, "alice")
    with app.app_context(), engine().connect() as connection:
        found = connection.execute(
            text("SELECT push_service, outcome, count FROM push_outcomes ORDER BY outcome")
        )
        assert found.all() == [("127.0.0.1", "gone", 1), ("127.0.0.1", "sent", 1)]
