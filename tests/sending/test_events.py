"""Events of messages: signals and webhooks, each once, together with what they are about."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from pushapp import EVERYONE, cancel, signals
from pushapp.database import engine, transaction
from pushapp.sending import claims, events, failures, recording
from pushapp.sending.delivery import Engine
from pushapp.webpush.responses import Outcome, Result
from tests.conftest import signed_in
from tests.support.http import post, rows
from tests.support.push_server import PushServer
from tests.support.sending import drain, enqueue, execute, queued_only, scalar, send
from tests.support.signals import received
from tests.support.subscriptions import subscription
from tests.support.threads import run_concurrently
from tests.support.webhook import Receiver

JOBS = "SELECT count(*) FROM push_queue.procrastinate_jobs WHERE queue_name = 'push_webhook'"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def app(
    make_app: Callable[..., Flask],
    push_server: PushServer,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> Flask:
    """An application with a webhook, which is tried again at once."""
    monkeypatch.setattr("pushapp.sending.webhook_worker.RETRY_DELAYS", (0, 0, 0))
    monkeypatch.setattr("pushapp.sending.webhook_client.SYNCHRONOUS_RETRY_DELAYS", (0, 0, 0))
    monkeypatch.setattr("pushapp.sending.worker.POLL_INTERVAL", 0.05)
    return make_app(PUSH_RECEIPTS=True, PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin], **receiver.settings)


def subscribe(app: Flask, body: dict[str, Any], user: str = "alice") -> int:
    post(signed_in(app, user), body)
    subscription_id: int = rows(app)[-1].id
    return subscription_id


def drain_all(app: Flask) -> None:
    """Run workers until all attempts to post are made."""
    for _ in range(4):
        drain(app)


def named(found: list[tuple[str, dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    return [values for each, values in found if each == name]


class TestSignals:
    def test_a_message_is_done_once_all_its_recipients_have_an_outcome(
        self, app: Flask, push_server: PushServer
    ) -> None:
        subscribe(app, push_server.subscription())
        gone_id = subscribe(app, push_server.subscription(response=(410, {}, b"")))
        with received(app) as found:
            message_id = send(app, "alice").id
        assert named(found, "message_done") == [
            {"message_id": message_id, "recipients": 2, "outcomes": {"sent": 1, "gone": 1}}
        ]
        assert named(found, "subscription_gone") == [{"subscription_id": gone_id, "user_id": "alice"}]

    @pytest.mark.parametrize("to", ["stranger", EVERYONE])
    def test_a_message_without_recipients_is_done(self, app: Flask, to: Any) -> None:
        with received(app) as found:
            message_id = send(app, to).id
        assert named(found, "message_done") == [{"message_id": message_id, "recipients": 0, "outcomes": {}}]

    def test_a_broadcast_of_several_batches_is_done_once(
        self, app: Flask, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pushapp.sending.recipients.BATCH_SIZE", 1)
        monkeypatch.setattr("pushapp.sending.recipients.PART_SIZE", 2)
        for user in ("alice", "bob", "carol"):
            subscribe(app, push_server.subscription(), user)
        with received(app) as found:
            message_id = send(app, EVERYONE).id
        assert named(found, "message_done") == [
            {"message_id": message_id, "recipients": 3, "outcomes": {"sent": 3}}
        ]

    @queued_only
    def test_a_cancelled_message_is_done_once(self, app: Flask, push_server: PushServer) -> None:
        subscribe(app, push_server.subscription())
        with received(app) as found:
            message_id = enqueue(app, "alice")
            for _ in range(2):
                with app.app_context():
                    cancel(message_id)
            drain(app)
        assert named(found, "message_done") == [
            {"message_id": message_id, "recipients": 1, "outcomes": {"cancelled": 1}}
        ]

    @queued_only
    def test_a_message_in_a_transaction_of_the_host_is_announced_if_that_commits(
        self, app: Flask, push_server: PushServer, receiver: Receiver
    ) -> None:
        with app.app_context():
            with suppress(ZeroDivisionError), transaction() as connection:
                enqueue(app, "stranger", connection=connection)
                raise ZeroDivisionError
            with transaction() as connection:
                message_id = enqueue(app, "stranger", connection=connection)
        drain(app)
        assert [each.data["message_id"] for each in receiver.received] == [message_id]

    def test_a_repeated_idempotency_key_announces_nothing(self, app: Flask) -> None:
        send(app, "alice", idempotency_key="one")
        with received(app) as found:
            send(app, "alice", idempotency_key="one")
        assert found == []

    @queued_only
    def test_two_workers_that_record_the_last_batches_at_once_announce_it_once(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pushapp.sending.recipients.BATCH_SIZE", 1)
        for host in ("fcm.googleapis.com", "web.push.apple.com"):  # whose counts are different rows
            subscribe(app, subscription(endpoint=f"https://{host}/1"))
        message_id = enqueue(app, "alice")
        meeting, done = threading.Barrier(2), events.done

        def done_at_once(*arguments: Any) -> list[events.Event]:
            with suppress(threading.BrokenBarrierError):  # the lock keeps the other one out
                meeting.wait(0.5)
            return done(*arguments)

        monkeypatch.setattr("pushapp.sending.events.done", done_at_once)

        with app.app_context(), engine().connect() as connection:
            batch_ids = connection.execute(text("SELECT id FROM push_batches ORDER BY id")).scalars().all()
            engines = [Engine(app, 1) for _ in batch_ids]
            batches = [
                claims.claim(batch_id, each._owner) for batch_id, each in zip(batch_ids, engines, strict=True)
            ]

        def work(worker: Engine, batch: claims.Batch | None) -> None:
            assert batch is not None
            report = recording.Report([(batch.recipients[0], Outcome(Result.SENT))])
            with app.app_context():
                worker._in_transaction(recording.record, batch, report)

        with received(app) as found:
            run_concurrently(*(partial(work, *each) for each in zip(engines, batches, strict=True)))
        assert named(found, "message_done") == [
            {"message_id": message_id, "recipients": 2, "outcomes": {"sent": 2}}
        ]

    def test_expired_and_failing_subscriptions_are_gone(self, app: Flask, push_server: PushServer) -> None:
        failing_id = subscribe(app, push_server.subscription(response=(400, {}, b"")))
        send(app, "alice")
        execute(
            app,
            "UPDATE push_failures SET failures = 2, since = :old",
            old=datetime.now(UTC) - timedelta(days=2),
        )
        with received(app) as found:
            send(app, "alice")
        assert named(found, "subscription_gone") == [{"subscription_id": failing_id, "user_id": "alice"}]
        expired_id = subscribe(app, push_server.subscription(), "bob")
        execute(
            app, "UPDATE push_subscriptions SET expires_at = :old", old=datetime.now(UTC) - timedelta(days=2)
        )
        with received(app) as found, app.app_context():
            assert failures.prune() == 1
        assert found == [("subscription_gone", {"subscription_id": expired_id, "user_id": "bob"})]

    def test_the_first_click_of_a_device_is_announced(self, app: Flask, push_server: PushServer) -> None:
        subscription_id = subscribe(app, push_server.subscription())
        message_id = send(app, "alice").id
        token = push_server.pushes[0].message["receipt"]
        with received(app) as found:
            for event, action in (("shown", None), ("clicked", "yes"), ("clicked", "no"), ("closed", None)):
                post(app.test_client(), {"token": token, "event": event, "action": action}, "/push/receipts")
        values = {"message_id": message_id, "subscription_id": subscription_id, "user_id": "alice"}
        assert found == [("message_clicked", values | {"action": "yes"})]

    def test_a_receiver_that_raises_does_not_break_delivery(
        self, app: Flask, push_server: PushServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_app: Flask, **_values: Any) -> None:
            raise ZeroDivisionError

        subscribe(app, push_server.subscription())
        with signals.message_done.connected_to(fail, app):
            assert send(app, "alice").sent == 1
        assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
        assert len(push_server.pushes) == 1


class TestWebhook:
    def test_events_are_posted_signed_and_again_until_the_receiver_takes_them(
        self, app: Flask, push_server: PushServer, receiver: Receiver
    ) -> None:
        receiver.statuses = [500, 503]
        subscribe(app, push_server.subscription())
        message_id = send(app, "alice").id
        drain_all(app)
        first, second, third = receiver.received
        assert first == second == third
        assert first.type == "message.done"
        assert first.data == {"message_id": message_id, "recipients": 1, "outcomes": {"sent": 1}}
        sent_at = datetime.fromisoformat(json.loads(first.body)["timestamp"])
        assert datetime.now(UTC) - sent_at < timedelta(minutes=1)

    def test_the_webhook_gets_what_the_signals_get(
        self, app: Flask, push_server: PushServer, receiver: Receiver
    ) -> None:
        gone_id = subscribe(app, push_server.subscription(response=(410, {}, b"")))
        subscription_id = subscribe(app, push_server.subscription())
        message_id = send(app, "alice").id
        token = push_server.pushes_to({"endpoint": rows(app)[0].endpoint})[0].message["receipt"]
        post(app.test_client(), {"token": token, "event": "clicked", "action": "yes"}, "/push/receipts")
        drain(app)
        posted = {each.type: each.data for each in receiver.received}
        assert len(receiver.received) == len({each.webhook_id for each in receiver.received}) == 3
        assert posted["subscription.gone"] == {"subscription_id": gone_id, "user_id": "alice"}
        assert posted["message.done"]["message_id"] == message_id
        assert posted["message.clicked"] == {
            "message_id": message_id, "subscription_id": subscription_id, "user_id": "alice", "action": "yes",
        }  # fmt: skip

    def test_an_event_that_is_never_taken_is_given_up_with_one_error(
        self, app: Flask, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        receiver.statuses = [404] * 10
        send(app, "stranger")
        drain_all(app)
        assert len(receiver.received) == 4
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert errors == ["PUSH_WEBHOOK_URL: status 404: an event is lost"]
        assert receiver.url not in caplog.text

    def test_a_receiver_without_connection_does_not_break_delivery(
        self, make_app: Callable[..., Flask], app: Flask, push_server: PushServer, receiver: Receiver
    ) -> None:
        unreachable = receiver.settings | {"PUSH_WEBHOOK_URL": "http://127.0.0.1:1/"}
        other = make_app(PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin], **unreachable)
        subscribe(other, push_server.subscription())
        assert send(other, "alice").sent == 1

    @queued_only
    def test_the_job_commits_with_what_it_is_about(self, app: Flask, receiver: Receiver) -> None:
        with app.app_context(), received(app) as found:
            with suppress(ZeroDivisionError), events.recorded() as (_connection, happened):
                happened.append(events.Event("message.done", {"message_id": 1}))
                raise ZeroDivisionError
            assert scalar(app, JOBS) == 0
            with events.recorded() as (_connection, happened):
                happened.append(events.Event("message.done", {"message_id": 2}))
            assert scalar(app, JOBS) == 1
        assert found == [("message_done", {"message_id": 2})]
        drain(app)
        assert [each.data for each in receiver.received] == [{"message_id": 2}]
        assert scalar(app, JOBS) == 0

    @queued_only
    def test_the_post_of_a_killed_worker_is_made_by_another(self, app: Flask, receiver: Receiver) -> None:
        with app.app_context(), events.recorded() as (_connection, happened):
            happened.append(events.Event("message.done", {"message_id": 1}))
        execute(
            app,
            "INSERT INTO push_queue.procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour')",
        )
        execute(
            app,
            "UPDATE push_queue.procrastinate_jobs SET status = 'doing',"
            " worker_id = (SELECT max(id) FROM push_queue.procrastinate_workers) WHERE queue_name = 'push_webhook'",
        )
        drain(app)
        assert len(receiver.received) == 1

    def test_without_a_url_nothing_is_queued(self, make_app: Callable[..., Flask]) -> None:
        app = make_app()
        send(app, "stranger")
        if app.config["SQLALCHEMY_DATABASE_URI"].get_backend_name() == "postgresql":
            assert scalar(app, JOBS) == 0
