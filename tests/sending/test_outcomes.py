"""Outcomes: each recipient is retried at its own time, expired and replaced messages are not sent, sums hold."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from pushapp import EVERYONE, Message
from pushapp.sending.status import Status
from tests.conftest import signed_in
from tests.support.http import post, rows
from tests.support.push_server import PushServer
from tests.support.sending import drain, enqueue, execute, queued_only, scalar, send, status
from tests.support.tls import Proxy


def subscribe(app: Flask, push_server: PushServer, *responses: Any, user: str = "alice") -> dict[str, Any]:
    """Subscribe a browser, whose first messages get `responses`."""
    body = push_server.subscription()
    path = body["endpoint"].removeprefix(push_server.origin)
    push_server.transient_responses[path] = list(responses)
    post(signed_in(app, user), body)
    return body


def drain_until_done(app: Flask, message_id: int) -> Status:
    for _ in range(40):
        drain(app)
        if status(app, message_id).state == "done":
            break
    found = status(app, message_id)
    assert found.state == "done"
    assert found.pending == 0
    return found


def due_in(app: Flask) -> list[float]:
    """Return in how many seconds each batch is due."""
    query = "SELECT json_agg(extract(epoch FROM due_at - now()) ORDER BY due_at) FROM push_batches"
    return scalar(app, query) or []


def age(app: Flask, message_id: int, seconds: float) -> None:
    """Let a message be older."""
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    execute(app, f"UPDATE push_messages SET created_at = :then WHERE id = {message_id}", then=then)


def retry_now(app: Flask) -> None:
    now = datetime.now(UTC) - timedelta(seconds=1)
    execute(app, "UPDATE push_batches SET due_at = :now", now=now)
    execute(app, "UPDATE push_queue.procrastinate_jobs SET scheduled_at = :now", now=now)


@queued_only
class TestRetries:
    def test_each_recipient_is_retried_after_its_own_retry_after(
        self, app: Flask, push_server: PushServer
    ) -> None:
        for seconds in (100, 300, 7_200):
            subscribe(app, push_server, (429, {"Retry-After": str(seconds)}, b""))
        subscribe(app, push_server)
        assert send(app, "alice").sent == 1
        assert due_in(app) == [pytest.approx(seconds, abs=3) for seconds in (100, 300, 3_600)]

    def test_those_that_are_due_together_are_one_batch(self, app: Flask, push_server: PushServer) -> None:
        for number in range(30):
            subscribe(app, push_server, (503, {"Retry-After": str(100 + number // 10)}, b""))
        send(app, "alice")
        assert len(due_in(app)) <= 4

    @pytest.mark.parametrize(("code", "failures"), [(429, 0), (408, 0), (425, 0), (503, 0), (507, 2)])
    def test_only_507_counts_against_the_subscription(
        self, app: Flask, push_server: PushServer, code: int, failures: int
    ) -> None:
        subscribe(app, push_server, *[(code, {"Retry-After": "60"}, b"")] * 2)
        message_id = enqueue(app, "alice")
        for _ in range(2):
            drain(app)
            retry_now(app)
        assert (scalar(app, "SELECT sum(failures)::int FROM push_failures") or 0) == failures
        assert drain_until_done(app, message_id).sent == 1

    def test_a_throttled_subscription_does_not_delay_others(
        self, app: Flask, push_server: PushServer
    ) -> None:
        subscribe(app, push_server, *[(429, {"Retry-After": "300"}, b"")] * 20)
        for _ in range(12):
            enqueue(app, "alice")
        drain(app)
        subscribe(app, push_server, user="bob")
        assert send(app, "bob").sent == 1

    def test_after_the_ttl_a_retry_has_failed(self, app: Flask, push_server: PushServer) -> None:
        subscribe(app, push_server, (503, {"Retry-After": "60"}, b""))
        message_id = enqueue(app, "alice", Message(title="x", ttl=100))
        drain(app)
        age(app, message_id, 101)
        retry_now(app)
        assert drain_until_done(app, message_id).failed == 1
        assert push_server.requests == 1

    def test_a_retry_has_the_remaining_ttl(self, app: Flask, push_server: PushServer) -> None:
        body = subscribe(app, push_server, (503, {"Retry-After": "60"}, b""))
        message_id = enqueue(app, "alice", Message(title="x", ttl=100))
        drain(app)
        age(app, message_id, 70)
        retry_now(app)
        assert drain_until_done(app, message_id).sent == 1
        first, second = push_server.pushes_to(body)
        assert first.headers["ttl"] == "100"
        assert 15 <= int(second.headers["ttl"]) <= 30


@queued_only
class TestExpiry:
    @pytest.mark.parametrize(("ttl", "seconds"), [(10, 11), (0, 61)])
    def test_after_the_ttl_a_first_attempt_is_expired_and_never_sent(
        self, app: Flask, push_server: PushServer, ttl: int, seconds: int
    ) -> None:
        subscribe(app, push_server)
        message_id = enqueue(app, "alice", Message(title="x", ttl=ttl))
        age(app, message_id, seconds)
        assert drain_until_done(app, message_id).expired == 1
        assert push_server.requests == 0

    def test_a_message_with_ttl_0_has_a_minutes_grace(self, app: Flask, push_server: PushServer) -> None:
        body = subscribe(app, push_server)
        message_id = enqueue(app, "alice", Message(title="x", ttl=0))
        age(app, message_id, 50)
        assert drain_until_done(app, message_id).sent == 1
        (push,) = push_server.pushes_to(body)
        assert push.headers["ttl"] == "0"


@queued_only
class TestTopics:
    @pytest.fixture
    def retried(self, app: Flask, push_server: PushServer) -> int:
        """A message with the topic `score` to alice, that has to be retried."""
        subscribe(app, push_server, (503, {"Retry-After": "60"}, b""))
        message_id = enqueue(app, "alice", Message(title="0:1", topic="score"))
        drain(app)
        return message_id

    @pytest.mark.parametrize("to", ["alice", EVERYONE])
    def test_a_newer_message_with_the_same_topic_replaces_a_retry(
        self, app: Flask, push_server: PushServer, retried: int, to: Any
    ) -> None:
        assert send(app, to, Message(title="0:2", topic="score")).sent == 1
        retry_now(app)
        assert drain_until_done(app, retried).replaced == 1
        assert [push.message["notification"]["title"] for push in push_server.pushes] == ["0:1", "0:2"]

    def test_a_message_to_everyone_is_replaced_for_the_recipients_of_the_newer_one_alone(
        self, app: Flask, push_server: PushServer
    ) -> None:
        for user in ("alice", "bob"):
            subscribe(app, push_server, (503, {"Retry-After": "60"}, b""), user=user)
        message_id = enqueue(app, EVERYONE, Message(title="0:1", topic="score"))
        drain(app)
        send(app, "bob", Message(title="0:2", topic="score"))
        retry_now(app)
        found = drain_until_done(app, message_id)
        assert (found.sent, found.replaced) == (1, 1)

    @pytest.mark.parametrize(("to", "topic"), [("bob", "score"), ("alice", "other"), ("alice", None)])
    def test_other_messages_replace_nothing(
        self, app: Flask, push_server: PushServer, retried: int, to: str, topic: str | None
    ) -> None:
        send(app, to, Message(title="x", topic=topic))
        retry_now(app)
        assert drain_until_done(app, retried).sent == 1

    @pytest.mark.parametrize("column", ["cancelled_at = now()", "send_at = now() + interval '1 day'"])
    def test_a_message_that_is_cancelled_or_scheduled_for_later_replaces_nothing(
        self, app: Flask, push_server: PushServer, retried: int, column: str
    ) -> None:
        message_id = enqueue(app, "alice", Message(title="x", topic="score"))
        execute(app, f"UPDATE push_messages SET {column} WHERE id = {message_id}")
        execute(app, f"DELETE FROM push_batches WHERE message_id = {message_id}")
        retry_now(app)
        assert drain_until_done(app, retried).sent == 1

    def test_a_first_attempt_is_not_replaced(self, app: Flask, push_server: PushServer) -> None:
        subscribe(app, push_server)
        messages = [enqueue(app, "alice", Message(title="x", topic="score")) for _ in range(2)]
        drain(app)
        assert [status(app, message_id).sent for message_id in messages] == [1, 1]


@queued_only
class TestSums:
    @pytest.mark.parametrize("to", ["alice", EVERYONE])
    def test_hold_when_a_subscription_expires_and_is_renewed_in_between(
        self, app: Flask, push_server: PushServer, to: Any
    ) -> None:
        for _ in range(3):
            subscribe(app, push_server)
        ids = [row.id for row in rows(app)]
        expire = "UPDATE push_subscriptions SET expires_at = now() - interval '1 day' WHERE id = {}"
        execute(app, expire.format(ids[1]))
        message_id = enqueue(app, to)
        execute(app, "UPDATE push_subscriptions SET expires_at = NULL")
        found = drain_until_done(app, message_id)
        assert found.gone == 0
        assert found.recipients == found.sent

    def test_hold_when_subscriptions_are_deleted_in_between(
        self, app: Flask, push_server: PushServer
    ) -> None:
        for _ in range(3):
            subscribe(app, push_server)
        message_id = enqueue(app, "alice")
        execute(app, f"DELETE FROM push_subscriptions WHERE id = {rows(app)[0].id}")
        found = drain_until_done(app, message_id)
        assert (found.recipients, found.sent, found.gone) == (3, 2, 1)


@pytest.mark.parametrize(
    "endpoint", ["no URL", "https://user@push.example.net/x", "", "https://push example/"]
)
def test_an_endpoint_that_is_no_url_fails_once_and_the_others_get_the_message_once(
    app: Flask, push_server: PushServer, endpoint: str
) -> None:
    for _ in range(3):
        subscribe(app, push_server)
    execute(app, f"UPDATE push_subscriptions SET endpoint = '{endpoint}' WHERE id = {rows(app)[0].id}")
    found = send(app, "alice")
    assert (found.state, found.sent, found.failed) == ("done", 2, 1)
    assert push_server.requests == 2
    assert scalar(app, "SELECT failures FROM push_failures") == 1


def test_messages_go_through_the_proxy(make_app: Callable[..., Flask], push_server: PushServer) -> None:
    push_server.origin = f"http://localhost:{push_server.server_port}"
    proxy = Proxy()
    app = make_app(
        PUSH_PROXY=f"socks5h://127.0.0.1:{proxy.port}", PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin]
    )
    post(signed_in(app, "alice"), push_server.subscription())
    assert send(app, "alice").sent == 1
    assert proxy.targets == [f"localhost:{push_server.server_port}"]
    proxy.close()
