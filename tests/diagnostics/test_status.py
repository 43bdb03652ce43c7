"""`flask push status` and `flask push why`: sentences for an operator, without endpoints and keys."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from pushapp import EVERYONE, Message
from pushapp.sending import statistics
from tests.conftest import signed_in
from tests.support.http import expire, post, rows
from tests.support.push_server import PushServer
from tests.support.sending import drain, enqueue, execute, queued_only, scalar
from tests.support.subscriptions import subscription

UNAVAILABLE = 503, {"Retry-After": "60"}, b""


@pytest.fixture
def app(sending_app: Flask) -> Flask:
    return sending_app


def push(app: Flask, *arguments: str, exit_code: int = 0) -> str:
    done = app.test_cli_runner().invoke(args=["push", *arguments])
    assert done.exit_code == exit_code, done.output
    for row in rows(app):
        assert row.endpoint not in done.output
        assert row.keys_auth not in done.output
    return done.output


def subscribe(app: Flask, user: str, body: dict[str, Any], **fields: str) -> dict[str, Any]:
    assert post(signed_in(app, user), body | fields).status_code == 200
    return body


def at(host: str) -> dict[str, Any]:
    return subscription(endpoint=f"https://{host}/{subscription()['endpoint'][-6:]}")


class TestStatus:
    def test_counts_subscriptions_by_push_service_and_browser(self, app: Flask) -> None:
        for label in ("Chrome on Android", "Edge on Windows", "Chrome on Linux", "my phone"):
            subscribe(app, "alice", at("fcm.googleapis.com"), label=label)
        subscribe(app, "alice", subscription())
        subscribe(app, "bob", at("wns2-par02p.notify.windows.com"))
        subscribe(app, "bob", at("a.unknown.net:8443"))
        subscribe(app, "bob", at("B.unknown.net"))
        lines = push(app, "status").splitlines()
        assert lines[0] == "Subscriptions: 8."
        assert lines[1] == "  fcm.googleapis.com: 4 (2 Chrome, 1 Edge, 1 unknown browser)"
        assert "  other: 2 (2 unknown browser)" in lines
        assert "  push.services.mozilla.com: 1 (1 Firefox)" in lines
        assert "  notify.windows.com: 1 (1 Edge)" in lines

    def test_counts_in_steps(self, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(statistics, "STEP", 2)
        for _ in range(5):
            subscribe(app, "alice", subscription())
        assert push(app, "status").startswith("Subscriptions: 5.\n")

    def test_counts_an_imported_endpoint_that_is_no_url(self, app: Flask) -> None:
        subscribe(app, "alice", subscription())
        execute(app, "UPDATE push_subscriptions SET endpoint = 'opaque'")
        assert "  other: 1 (1 unknown browser)" in push(app, "status")
        assert "an endpoint that is no URL" in push(app, "why", "alice")

    def test_tells_that_nothing_is_going_on(self, app: Flask) -> None:
        text = push(app, "status")
        assert "Subscriptions: 0." in text
        assert "Queue: 0 batches due, with 0 recipients." in text
        assert "Messages under way: none." in text

    @queued_only
    def test_shows_the_queue_and_messages_under_way(self, app: Flask, push_server: PushServer) -> None:
        for user in ("alice", "bob"):
            subscribe(app, user, push_server.subscription())
        first, second = (enqueue(app, to) for to in ("alice", EVERYONE))
        text = push(app, "status")
        assert "Queue: 2 batches due, with 1 recipients, the oldest for " in text
        assert "Workers: 0 alive." in text
        assert f"message {first} to one user, created " in text
        assert "queued: 1 waiting of 1\n" in text
        assert "queued: 2 or more waiting of 2 or more\n" in text
        assert text.index(f"message {second} to everyone") < text.index(f"message {first} to one user")
        drain(app)
        assert "Messages under way: none." in push(app, "status")

    @queued_only
    def test_shows_progress(self, app: Flask, push_server: PushServer) -> None:
        responses = (None, UNAVAILABLE)
        fine, _ = (subscribe(app, "alice", push_server.subscription(each)) for each in responses)
        message = enqueue(app, "alice")
        drain(app)
        assert push_server.pushes_to(fine)
        assert f"message {message} to one user" in push(app, "status")
        assert "sending: 1 sent, 1 waiting of 2" in push(app, "status")


class TestWhy:
    def test_a_user_without_subscriptions(self, app: Flask) -> None:
        assert push(app, "why", "alice").startswith("alice has no subscriptions: ")

    def test_a_device_that_was_never_reached_and_one_that_was(
        self, app: Flask, push_server: PushServer
    ) -> None:
        subscribe(app, "alice", push_server.subscription(), label="Firefox on Linux")
        (row,) = rows(app)
        text = push(app, "why", "alice")
        assert text.startswith(
            f"{row.id}  Firefox on Linux, 127.0.0.1: never reached since it subscribed at 20"
        )
        message = enqueue(app, "alice")
        drain(app)
        assert ": reached last at 20" in push(app, "why", "alice")
        text = push(app, "why", "alice", str(message))
        assert text.startswith(f"message {message} to one user, created 20")
        assert " done: 1 sent of 1\n" in text
        assert "by this message or a later one\n" in text

    def test_a_device_that_expired(self, app: Flask, push_server: PushServer) -> None:
        subscribe(app, "alice", push_server.subscription())
        expire(app)
        assert "expired at 2020-01-01 00:00:00 UTC, so nothing is sent to it" in push(app, "why", "alice")

    def test_a_device_that_fails(self, app: Flask, push_server: PushServer) -> None:
        subscribe(app, "alice", push_server.subscription((400, {}, b"")))
        message = enqueue(app, "alice")
        drain(app)
        text = push(app, "why", "alice")
        assert "failing since 20" in text
        assert "1 times in a row; it is deleted at 3 over more than 24 hours" in text
        text = push(app, "why", "alice", str(message))
        assert " done: 1 failed of 1\n" in text
        assert "not reached by it; never reached" in text

    @queued_only
    def test_a_device_that_is_retried(self, app: Flask, push_server: PushServer) -> None:
        for response in (None, UNAVAILABLE):
            subscribe(app, "alice", push_server.subscription(response))
        message = enqueue(app, "alice")
        drain(app)
        batch = scalar(app, "SELECT id FROM push_batches")
        for arguments in (["alice"], ["alice", str(message)]):
            fine, retried = push(app, "why", *arguments).splitlines()[-2:]
            assert "retried" not in fine
            assert f"message {message} is retried at 20" in retried
            assert " after 1 attempt, until its TTL is over at 20" in retried
            assert f"(batch {batch})" in retried

    @queued_only
    def test_a_message_that_waits(self, app: Flask, push_server: PushServer) -> None:
        subscribe(app, "alice", push_server.subscription())
        subscribe(app, "bob", push_server.subscription())
        to_bob, to_all = enqueue(app, "bob"), enqueue(app, EVERYONE)
        assert f"message {to_all} waits for a worker to create its batches" in push(app, "why", "alice")
        text = push(app, "why", "bob")
        assert f"message {to_bob} waits for a worker since 20" in text
        assert f"message {to_bob} waits" not in push(app, "why", "alice")

    def test_a_device_that_subscribed_later(self, app: Flask, push_server: PushServer) -> None:
        subscribe(app, "alice", push_server.subscription())
        message = enqueue(app, EVERYONE, Message(title="Hello"))
        drain(app)
        subscribe(app, "alice", push_server.subscription())
        later = datetime.now(UTC) + timedelta(seconds=5)
        execute(
            app, "UPDATE push_subscriptions SET created_at = :later WHERE last_sent_at IS NULL", later=later
        )
        lines = push(app, "why", "alice", str(message)).splitlines()
        assert lines[2].endswith(", after the message was created")

    def test_a_message_that_does_not_exist_or_is_for_another_user(
        self, app: Flask, push_server: PushServer
    ) -> None:
        subscribe(app, "bob", push_server.subscription())
        message = enqueue(app, "bob")
        assert "Error: there is no message 999999" in push(app, "why", "alice", "999999", exit_code=1)
        text = push(app, "why", "alice", str(message), exit_code=1)
        assert f"Error: message {message} was sent to another user" in text
