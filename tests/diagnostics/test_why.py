"""`flask push why`: sentences about each device of a user, without endpoints and keys."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

import pushapp
from pushapp import EVERYONE, Channel, Device, Message
from pushapp.sending import batches
from pushapp.webpush.vapid import generate_key_pair
from tests.support.http import expire, rows
from tests.support.operators import push, subscribe
from tests.support.push_server import PushServer
from tests.support.sending import drain, enqueue, execute, queued_only, scalar, send
from tests.support.subscriptions import subscription

UNAVAILABLE = 503, {"Retry-After": "60"}, b""
TOMORROW = datetime.now(UTC) + timedelta(days=1)
TOMORROW_TEXT = f"{TOMORROW:%Y-%m-%d %H:%M:%S} UTC"


@pytest.fixture
def app(sending_app: Flask) -> Flask:
    return sending_app


def test_a_user_without_subscriptions(app: Flask) -> None:
    assert push(app, "why", "alice").startswith("alice has no subscriptions: ")


def test_a_device_that_was_never_reached_and_one_that_was(app: Flask, push_server: PushServer) -> None:
    subscribe(app, "alice", push_server.subscription(), label="Firefox on Linux")
    (row,) = rows(app)
    text = push(app, "why", "alice")
    assert text.startswith(f"{row.id}  Firefox on Linux, 127.0.0.1: never reached since it subscribed at 20")
    message = enqueue(app, "alice")
    drain(app)
    assert ": reached last at 20" in push(app, "why", "alice")
    text = push(app, "why", "alice", str(message))
    assert text.startswith(f"message {message} to one user, created 20")
    assert " done: 1 sent of 1\n" in text
    assert "by this message or a later one\n" in text


def test_a_device_with_an_old_key_and_one_whose_key_is_gone(make_app: Callable[..., Flask]) -> None:
    old, new = generate_key_pair().private, generate_key_pair().private
    subscribe(make_app(PUSH_VAPID_PRIVATE_KEY=old), "alice", subscription())
    rotated = make_app(PUSH_VAPID_PRIVATE_KEY=new, PUSH_VAPID_PRIVATE_KEY_FALLBACKS=[old])
    assert "made with an older VAPID key; it moves" in push(rotated, "why", "alice")
    replaced = make_app(PUSH_VAPID_PRIVATE_KEY=new)
    assert "made with a VAPID key that is not in the settings" in push(replaced, "why", "alice")
    subscribe(replaced, "bob", subscription())
    assert "VAPID" not in push(replaced, "why", "bob")


def test_a_device_that_is_sent_to_and_never_shows_a_message(
    make_app: Callable[..., Flask], push_server: PushServer
) -> None:
    app = make_app(PUSH_RECEIPTS=True, PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin])
    body = push_server.subscription()
    subscribe(app, "alice", body)
    never_shown = "its browser has never reported that it showed one"
    assert never_shown not in push(app, "why", "alice")
    send(app, "alice")
    assert never_shown in push(app, "why", "alice")
    (received,) = push_server.pushes_to(body)
    receipt = {"token": received.message["receipt"], "event": "shown"}
    assert app.test_client().post("/push/receipts", json=receipt).status_code == 204
    assert never_shown not in push(app, "why", "alice")


def test_a_device_that_expired(app: Flask, push_server: PushServer) -> None:
    subscribe(app, "alice", push_server.subscription())
    expire(app)
    assert "expired at 2020-01-01 00:00:00 UTC, so nothing is sent to it" in push(app, "why", "alice")


def test_a_device_that_fails(app: Flask, push_server: PushServer) -> None:
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
def test_a_device_that_is_retried(app: Flask, push_server: PushServer) -> None:
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
def test_a_message_that_waits(app: Flask, push_server: PushServer) -> None:
    subscribe(app, "alice", push_server.subscription())
    subscribe(app, "bob", push_server.subscription())
    to_bob, to_all = enqueue(app, "bob"), enqueue(app, EVERYONE)
    assert f"message {to_all} waits for a worker to create its batches" in push(app, "why", "alice")
    text = push(app, "why", "bob")
    assert f"message {to_bob} waits for a worker since 20" in text
    assert f"message {to_bob} waits" not in push(app, "why", "alice")


def test_a_device_that_subscribed_later(app: Flask, push_server: PushServer) -> None:
    subscribe(app, "alice", push_server.subscription())
    message = enqueue(app, EVERYONE, Message(title="Hello"))
    drain(app)
    subscribe(app, "alice", push_server.subscription())
    later = datetime.now(UTC) + timedelta(seconds=5)
    execute(app, "UPDATE push_subscriptions SET created_at = :later WHERE last_sent_at IS NULL", later=later)
    lines = push(app, "why", "alice", str(message)).splitlines()
    assert lines[2].endswith(", after the message was created")


def test_a_message_that_does_not_exist_or_is_for_another_user(app: Flask, push_server: PushServer) -> None:
    subscribe(app, "bob", push_server.subscription())
    message = enqueue(app, "bob")
    assert "Error: there is no message 999999" in push(app, "why", "alice", "999999", exit_code=1)
    text = push(app, "why", "alice", str(message), exit_code=1)
    assert f"Error: message {message} was not for this user\n" in text


@queued_only
def test_a_message_to_a_list_a_channel_or_a_device_waits_for_its_devices_only(
    app: Flask, push_server: PushServer
) -> None:
    for user in ("alice", "alice", "bob", "carol"):
        subscribe(app, user, push_server.subscription())
    first, second = (row.id for row in rows(app) if row.user_id == "alice")
    with app.app_context():
        pushapp.join("alice", "news")
    to_list = enqueue(app, ["alice", "carol"])
    to_channel = enqueue(app, Channel("news"))
    to_device = enqueue(app, Device(second))
    text = push(app, "why", "alice")
    of_first, of_second = text.splitlines()
    for line in (of_first, of_second):
        assert f"message {to_list} waits for a worker since 20" in line
        assert f"message {to_channel} waits for a worker to create its batches" in line
    assert of_first.startswith(f"{first}  ")
    assert f"message {to_device} waits" not in of_first
    assert f"message {to_device} waits for a worker since 20" in of_second
    assert "waits" not in push(app, "why", "bob")
    assert push(app, "why", "carol").count("waits") == 1
    assert push(app, "why", "alice", str(to_list)).startswith(f"message {to_list} to 2 users, created 20")
    assert f"message {to_channel} to channel news, created 20" in push(app, "why", "alice", str(to_channel))
    assert f"message {to_device} to one device, created 20" in push(app, "why", "alice", str(to_device))


@queued_only
def test_a_channels_fan_out_that_has_a_member_already_is_not_waited_for(
    app: Flask, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.sending.recipients.MEMBERS_PER_PART", 1)
    for user in ("alice", "bob"):
        subscribe(app, user, push_server.subscription())
        with app.app_context():
            pushapp.join(user, "news")
    message = enqueue(app, Channel("news"))
    with app.app_context():
        next(batches.fan_out(scalar(app, "SELECT id FROM push_batches")))
    alice, bob = push(app, "why", "alice"), push(app, "why", "bob")
    assert f"message {message} waits for a worker since 20" in alice
    assert "create its batches" not in alice
    assert f"message {message} waits for a worker to create its batches" in bob
    assert "since 20" not in bob.replace("since it subscribed", "")


@pytest.mark.parametrize("to", ["alice", ["alice", "bob"], Channel("news"), EVERYONE], ids=str)
def test_a_scheduled_message_has_its_time(app: Flask, push_server: PushServer, to: Any) -> None:
    subscribe(app, "alice", push_server.subscription())
    with app.app_context():
        pushapp.join("alice", "news")
    message = enqueue(app, to, at=TOMORROW)
    for arguments in (["alice"], ["alice", str(message)]):
        line = push(app, "why", *arguments).splitlines()[-1]
        assert f"message {message} is scheduled for {TOMORROW_TEXT}" in line
    first = push(app, "why", "alice", str(message)).splitlines()[0]
    assert first.endswith(f", scheduled for {TOMORROW_TEXT}")
    assert "waits" not in push(app, "why", "carol")


def test_a_device_that_subscribed_before_a_scheduled_message_was_due(
    app: Flask, push_server: PushServer
) -> None:
    message = enqueue(app, EVERYONE, at=datetime.now(UTC) + timedelta(hours=1))
    subscribe(app, "alice", push_server.subscription())
    execute(app, "DELETE FROM push_batches")
    now = datetime.now(UTC)
    earlier, later = now - timedelta(hours=1), now + timedelta(hours=1)
    execute(app, "UPDATE push_messages SET created_at = :earlier", earlier=earlier)
    execute(app, "UPDATE push_messages SET send_at = :later", later=later)
    assert "not reached by it; never reached since" in push(app, "why", "alice", str(message))
    execute(app, "UPDATE push_messages SET send_at = :earlier", earlier=earlier)
    assert push(app, "why", "alice", str(message)).endswith(", after the message was due\n")


def test_a_cancelled_message(app: Flask, push_server: PushServer) -> None:
    subscribe(app, "alice", push_server.subscription())
    message = enqueue(app, "alice", at=TOMORROW)
    with app.app_context():
        pushapp.cancel(message)
    head, device = push(app, "why", "alice", str(message)).splitlines()
    assert ", cancelled at 20" in head
    assert head.endswith(" UTC: no recipients")
    assert ": not reached by it before it was cancelled at 20" in device
    assert "message" not in push(app, "why", "alice")


@queued_only
def test_a_message_that_a_worker_is_sending(app: Flask, push_server: PushServer) -> None:
    subscribe(app, "alice", push_server.subscription())
    message = enqueue(app, "alice")
    execute(app, "UPDATE push_batches SET claimed_by = 1, claimed_at = :now", now=datetime.now(UTC))
    assert f"message {message} is being sent by a worker, until" in push(app, "why", "alice")
    with app.app_context():
        pushapp.cancel(message)
    assert "was cancelled at 20" in push(app, "why", "alice")
    assert "cancelled at 20" in push(app, "why", "alice", str(message)).splitlines()[0]
    then = datetime.now(UTC) - timedelta(minutes=1)
    execute(app, "UPDATE push_messages SET cancelled_at = NULL")
    execute(app, "UPDATE push_batches SET claimed_at = :then", then=then)
    assert f"message {message} waits for a worker since 20" in push(app, "why", "alice")
    execute(app, "UPDATE push_batches SET due_at = :later", later=TOMORROW)
    assert f"message {message} waits for a worker, next at {TOMORROW_TEXT}" in push(app, "why", "alice")


@pytest.mark.parametrize("to", ["alice", ["alice", "bob"], Channel("news"), EVERYONE], ids=str)
def test_a_user_that_exclude_leaves_out(app: Flask, push_server: PushServer, to: Any) -> None:
    subscribe(app, "alice", push_server.subscription())
    with app.app_context():
        pushapp.join("alice", "news")
    message = enqueue(app, to, exclude=["alice"], at=TOMORROW)
    head, reason = push(app, "why", "alice", str(message)).splitlines()
    assert " (excluding one user), created 20" in head
    assert reason == "alice was left out by exclude."
    assert "message" not in push(app, "why", "alice")


def test_a_message_that_was_not_for_this_user(app: Flask, push_server: PushServer) -> None:
    subscribe(app, "alice", push_server.subscription())
    subscribe(app, "bob", push_server.subscription())
    of_bob = rows(app)[1].id
    for to, reason in (
        (["bob", "carol"], ""),
        (Device(of_bob), ""),
        (Channel("news"), ": alice is not a member of the channel news"),
    ):
        message = enqueue(app, to)
        text = push(app, "why", "alice", str(message), exit_code=1)
        assert text.endswith(f"Error: message {message} was not for this user{reason}\n")


def test_a_device_that_was_deleted_was_addressed(app: Flask, push_server: PushServer) -> None:
    subscribe(app, "alice", push_server.subscription((410, {}, b"")))
    (row,) = rows(app)
    message = enqueue(app, Device(row.id))
    drain(app)
    text = push(app, "why", "alice", str(message))
    assert "done: 1 gone of 1\nalice has no subscriptions" in text
