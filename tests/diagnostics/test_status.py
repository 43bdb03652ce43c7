"""`flask push status` and `flask push why`: sentences for an operator, without endpoints and keys."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from pushapp import EVERYONE, Channel, Device
from pushapp.diagnostics import messages, queue
from pushapp.sending import statistics
from tests.support.operators import push, subscribe
from tests.support.push_server import PushServer
from tests.support.sending import drain, enqueue, execute, queued_only
from tests.support.subscriptions import subscription

UNAVAILABLE = 503, {"Retry-After": "60"}, b""


@pytest.fixture
def app(sending_app: Flask) -> Flask:
    return sending_app


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
        assert "Messages scheduled: none." in text

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
    def test_a_long_queue_is_not_counted_to_its_end(
        self, app: Flask, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue, "MAX_BATCHES", 2)
        subscribe(app, "alice", push_server.subscription())
        for _ in range(3):
            enqueue(app, "alice")
        assert "Queue: 2 or more batches due, with 2 or more recipients, the oldest" in push(app, "status")

    @queued_only
    def test_shows_progress(self, app: Flask, push_server: PushServer) -> None:
        responses = (None, UNAVAILABLE)
        fine, _ = (subscribe(app, "alice", push_server.subscription(each)) for each in responses)
        message = enqueue(app, "alice")
        drain(app)
        assert push_server.pushes_to(fine)
        assert f"message {message} to one user" in push(app, "status")
        assert "sending: 1 sent, 1 waiting of 2" in push(app, "status")

    def test_names_the_audience_but_no_users(self, app: Flask) -> None:
        later = datetime.now(UTC) + timedelta(days=1)
        for to, exclude, text in (
            ("alice", [], "one user"),
            (["alice", "bob"], ["bob"], "2 users (excluding one user)"),
            (Channel("news"), ["alice", "bob"], "channel news (excluding 2 users)"),
            (Device(7), [], "one device"),
            (EVERYONE, [], "everyone"),
        ):
            message = enqueue(app, to, exclude=exclude, at=later)
            assert f"  message {message} to {text}, created 20" in push(app, "status")
        assert "alice" not in push(app, "status")

    def test_scheduled_messages_do_not_hide_those_under_way(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(messages, "MAX_MESSAGES", 2)
        hours = [datetime.now(UTC) + timedelta(hours=hour) for hour in (3, 1, 2)]
        message = enqueue(app, EVERYONE, at=hours[0])
        execute(app, "UPDATE push_messages SET send_at = :now", now=datetime.now(UTC))
        execute(app, "UPDATE push_batches SET due_at = :now", now=datetime.now(UTC))
        _, second, third = (enqueue(app, "alice", at=hour) for hour in hours)
        text = push(app, "status")
        assert f"Messages under way: 1.\n  message {message} to everyone" in text
        assert "Messages scheduled: 2 or more.\n" in text
        for scheduled, hour in ((second, hours[1]), (third, hours[2])):
            line = next(line for line in text.splitlines() if f"message {scheduled} to one user" in line)
            assert line.endswith(f", scheduled for {hour:%Y-%m-%d %H:%M:%S} UTC")
        assert text.count("scheduled for") == 2
