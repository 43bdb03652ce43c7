"""Without a queue, on SQLite: what is left is sent by the next send, or by a worker."""

import asyncio
import os
import signal
import threading
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

import pushapp
from pushapp import EVERYONE, Message
from pushapp.sending import claims, outbox, worker
from tests.conftest import signed_in
from tests.support.http import post
from tests.support.push_server import PushServer
from tests.support.sending import counts, enqueue, execute, scalar, status
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def subscribed(app: Flask, push_server: PushServer) -> None:
    for user in ("alice", "bob"):
        post(signed_in(app, user), push_server.subscription())


@pytest.fixture
def left(app: Flask, monkeypatch: pytest.MonkeyPatch) -> int:
    """A message to alice that its sender has not sent."""
    with monkeypatch.context() as patches:
        patches.setattr("pushapp.sending.outbox._deliver_now", lambda *_: None)
        return enqueue(app, "alice")


def run_worker(app: Flask, *, drain: bool = False) -> None:
    with app.app_context():
        asyncio.run(worker.run_worker(app, drain=drain))


def test_what_an_interrupted_send_has_left_is_sent_by_the_next(app: Flask, left: int) -> None:
    assert status(app, left).state == "queued"
    enqueue(app, "bob")
    assert counts(status(app, left)) == (1, 0, 0)


def test_what_a_killed_send_had_claimed_is_sent_by_the_next(
    app: Flask, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.sending.synchronous.RETRY_WINDOW", timedelta(seconds=5))
    with app.app_context():
        assert claims.claim(scalar(app, "SELECT id FROM push_batches"), owner=1)
    then = datetime.now(UTC) - claims.LEASE + timedelta(seconds=1)
    execute(app, "UPDATE push_batches SET claimed_at = :then", then=then)
    enqueue(app, "bob")
    assert counts(status(app, left)) == (1, 0, 0)


def test_a_worker_sends_what_is_left_and_drains(app: Flask, push_server: PushServer, left: int) -> None:
    run_worker(app, drain=True)
    assert counts(status(app, left)) == (1, 0, 0)


def test_a_worker_fans_out_and_sends_until_sigterm(
    app: Flask, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.sending.outbox._deliver_now", lambda *_: None)
    sent = []

    def send_and_stop() -> None:
        sent.append(enqueue(app, EVERYONE))
        wait_until(lambda: len(push_server.pushes) == 2, 10)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send_and_stop)
    thread.start()
    run_worker(app)
    thread.join()
    assert counts(status(app, sent[0])) == (2, 0, 0)


def test_what_is_not_due_is_not_sent(app: Flask, push_server: PushServer, left: int) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    execute(app, "UPDATE push_batches SET due_at = :later", later=later)
    enqueue(app, "bob")
    run_worker(app, drain=True)
    assert status(app, left).state == "queued"
    assert push_server.requests == 1


def test_a_retry_after_the_senders_time_is_left_to_the_next(app: Flask, push_server: PushServer) -> None:
    body = push_server.subscription()
    path = body["endpoint"].removeprefix(push_server.origin)
    push_server.transient_responses[path] = [(503, {"Retry-After": "3"}, b"")]
    post(signed_in(app, "carol"), body)
    message_id = enqueue(app, "carol")
    assert status(app, message_id).state == "queued"
    execute(app, "UPDATE push_batches SET due_at = :now", now=datetime.now(UTC))
    run_worker(app, drain=True)
    assert counts(status(app, message_id)) == (1, 0, 0)


def test_send_works_inside_a_running_event_loop(app: Flask) -> None:
    async def send() -> int:
        with app.app_context():
            return pushapp.send(Message(title="x"), to="alice")

    message_id = asyncio.run(send())
    assert counts(status(app, message_id)) == (1, 0, 0)


def test_progress_is_reported_up_to_the_number_of_recipients(app: Flask) -> None:
    seen = []
    with app.app_context():
        outbox.send(Message(title="x"), to=EVERYONE, on_progress=lambda *numbers: seen.append(numbers))
    assert sum(done for done, _ in seen) == 2
    assert {total for _, total in seen} == {2}
