"""Messages from `send` to the push service, on both databases."""

import asyncio
import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

import pushapp
from pushapp import EVERYONE, Message, MessageError
from pushapp.sending import outbox, worker
from tests.conftest import signed_in
from tests.support.http import expire, post
from tests.support.push_server import PushServer
from tests.support.sending import counts, drain, enqueue, execute, queued_only, scalar, send, status


class TestMessage:
    def test_reaches_all_browsers_of_its_user_only(self, app: Flask, push_server: PushServer) -> None:
        hers, his = [push_server.subscription() for _ in range(3)], push_server.subscription()
        for body in hers:
            post(signed_in(app, "alice"), body)
        post(signed_in(app, "bob"), his)
        found = send(app, "alice", Message(title="Hello", body="Grüße 🎉"))
        assert (found.state, found.recipients, counts(found)) == ("done", 3, (3, 0, 0))
        for body in hers:
            (push,) = push_server.pushes_to(body)
            assert push.message["notification"] == {"title": "Hello", "body": "Grüße 🎉"}
        assert push_server.pushes_to(his) == []

    def test_to_everyone_is_sent_in_batches(
        self, app: Flask, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pushapp.sending.recipients.BATCH_SIZE", 4)
        bodies = [push_server.subscription() for _ in range(14)]
        for number, body in enumerate(bodies):
            post(signed_in(app, f"user {number % 5}"), body)
        execute(app, "DELETE FROM push_subscriptions WHERE user_id = 'user 3'")
        found = send(app, EVERYONE)
        assert (found.state, found.recipients, counts(found)) == ("done", 11, (11, 0, 0))
        assert len(push_server.pushes) == len({push.path for push in push_server.pushes}) == 11

    @queued_only
    def test_to_one_user_does_not_wait_for_a_broadcast(self, app: Flask, push_server: PushServer) -> None:
        body = push_server.subscription()
        post(signed_in(app, "alice"), body)
        direct_sent = threading.Event()
        in_time = []

        def send_direct_and_wait() -> None:
            push_server.before_response = direct_sent.set
            enqueue(app, "alice", Message(title="direct"))
            in_time.append(direct_sent.wait(8))
            os.kill(os.getpid(), signal.SIGTERM)

        push_server.before_response = send_direct_and_wait
        enqueue(app, EVERYONE, Message(title="broadcast"))
        with app.app_context():
            asyncio.run(worker.run_worker(app, concurrency=2))
        assert in_time == [True]
        titles = [push.message["notification"]["title"] for push in push_server.pushes_to(body)]
        assert titles == ["broadcast", "direct"]

    @pytest.mark.parametrize("to", ["unknown", EVERYONE])
    def test_without_recipients_is_done_at_once(self, app: Flask, to: Any) -> None:
        found = send(app, to)
        assert (found.state, found.recipients, counts(found)) == ("done", 0, (0, 0, 0))

    @pytest.mark.parametrize("to", ["", None, True, [None], {"a": 1}, b"alice", "x" * 256, "a\0"])
    def test_to_an_invalid_user_id_is_rejected(self, app: Flask, to: Any) -> None:
        with app.app_context(), pytest.raises(MessageError, match="to: "):
            pushapp.send(Message(title="x"), to=to)

    def test_to_an_integer_user_id_is_sent(self, app: Flask, push_server: PushServer) -> None:
        post(signed_in(app, 42), push_server.subscription())
        assert counts(send(app, 42)) == (1, 0, 0)

    def test_is_not_sent_to_later_subscriptions(self, app: Flask, push_server: PushServer) -> None:
        post(signed_in(app, "alice"), push_server.subscription())
        message_id = enqueue(app, "alice")
        late = push_server.subscription()
        post(signed_in(app, "alice"), late)
        drain(app)
        assert counts(status(app, message_id)) == (1, 0, 0)
        assert push_server.pushes_to(late) == []

    def test_is_not_sent_to_expired_subscriptions(self, app: Flask, push_server: PushServer) -> None:
        post(signed_in(app, "alice"), push_server.subscription())
        expire(app)
        assert send(app, "alice").recipients == 0

    def test_is_sent_with_its_ttl_urgency_and_topic(self, app: Flask, push_server: PushServer) -> None:
        body = push_server.subscription()
        post(signed_in(app, "alice"), body)
        send(app, "alice", Message(title="x", ttl=100, urgency=pushapp.Urgency.LOW, topic="t"))
        (push,) = push_server.pushes_to(body)
        assert push.headers["ttl"] == "100"
        assert (push.headers["urgency"], push.headers["topic"]) == ("low", "t")
        assert push.claims["sub"] == "mailto:webmaster@site.org"


def test_finished_messages_are_deleted_after_a_month(app: Flask, push_server: PushServer) -> None:
    post(signed_in(app, "alice"), push_server.subscription())
    for _ in range(2):
        send(app, "alice")
    then = datetime.now(UTC) - timedelta(days=31)
    execute(
        app,
        "UPDATE push_messages SET created_at = :then WHERE id = (SELECT min(id) FROM push_messages)",
        then=then,
    )
    with app.app_context():
        assert outbox.prune() == 1
        assert outbox.prune() == 0
    assert scalar(app, "SELECT count(*) FROM push_messages") == 1
    assert scalar(app, "SELECT sum(count) FROM push_outcomes") == 1
