"""`pushapp.erase`, `flask push erase` and `export`."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import select

import pushapp
from pushapp import EVERYONE, Channel, Device, Message, channels_of, join
from pushapp.database import engine
from pushapp.models import PushMessage
from pushapp.sending import receipts, recording
from tests.conftest import signed_in
from tests.support.http import post
from tests.support.push_server import PushServer
from tests.support.sending import drain, enqueue, execute, queued_only, scalar, send
from tests.support.subscriptions import subscription

RECEIPTS = ("push_receipts", "push_receipt_counts")
TABLES_OF_USERS = ("push_subscriptions", "push_failures", "push_messages", "push_batches", "push_outcomes")


def push(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["push", *arguments])


def count(app: Flask, table: str) -> int:
    number: int = scalar(app, f"SELECT count(*) FROM {table}")
    return number


@pytest.fixture
def site(sending_app: Flask, push_server: PushServer) -> Flask:
    """A site with three subscriptions, a sent message to each user and to all, and a failure of each."""
    for user in ("alice", "alice", "bob"):
        post(signed_in(sending_app, user), push_server.subscription())
    for to in ("alice", "bob", EVERYONE):
        send(sending_app, to, Message(title=f"To {to}"))
    execute(
        sending_app,
        "INSERT INTO push_failures SELECT id, 1, :since FROM push_subscriptions",
        since=datetime.fromisoformat("2026-01-02T03:04:05+00:00"),
    )
    return sending_app


@queued_only
def test_an_erase_waits_for_a_record_of_the_same_batch(
    sending_app: Flask,
    push_server: PushServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    is_recording, update_batch = threading.Event(), recording._update_batch

    def update_slowly(*arguments: Any) -> bool:
        updated = update_batch(*arguments)
        is_recording.set()
        time.sleep(0.3)  # the erase meets the locked batch
        return updated

    def erase() -> None:
        assert is_recording.wait(20)
        with sending_app.app_context():
            pushapp.erase("alice")

    monkeypatch.setattr(recording, "_update_batch", update_slowly)
    delays = iter([0, 3])  # the outcome of the second is recorded later
    push_server.before_response = lambda: time.sleep(next(delays, 0))
    for _ in range(2):
        post(signed_in(sending_app, "alice"), push_server.subscription((503, {"Retry-After": "60"}, b"")))
    enqueue(sending_app, "alice")
    with ThreadPoolExecutor(1) as thread:
        erased = thread.submit(erase)
        drain(sending_app)
        erased.result()
    assert "Deadlock" not in caplog.text
    assert count(sending_app, "push_messages") == 0


def test_erase_deletes_all_of_a_user_and_nothing_else(site: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushapp.userdata.WINDOW", 1)
    with site.app_context():
        assert pushapp.erase("alice") == (2, 1)
        assert pushapp.erase("alice") == (0, 0)
    assert [count(site, table) for table in TABLES_OF_USERS] == [1, 1, 2, 0, 2]
    for table in ("push_subscriptions", "push_messages"):
        assert scalar(site, f"SELECT count(*) FROM {table} WHERE user_id = 'alice'") == 0
    assert (
        scalar(
            site, "SELECT count(*) FROM push_failures f JOIN push_subscriptions s ON s.id = f.subscription_id"
        )
        == 1
    )


@queued_only
def test_messages_of_an_erased_user_are_not_sent(site: Flask, push_server: PushServer) -> None:
    before = push_server.requests
    enqueue(site, "alice")
    to_bob = enqueue(site, "bob")
    push(site, "erase", "alice")
    post(signed_in(site, "alice"), push_server.subscription())
    drain(site)
    assert push_server.requests == before + 1
    assert scalar(site, f"SELECT count(*) FROM push_outcomes WHERE message_id = {to_bob}") == 1
    assert count(site, "push_queue.procrastinate_jobs") == 0


def test_export_prints_what_is_stored_without_keys_and_other_users(site: Flask) -> None:
    body = subscription(label="My phone")
    post(signed_in(site, "alice"), body)
    done = push(site, "export", "alice")
    data = json.loads(done.stdout)
    assert list(data) == [
        "user_id",
        "channels",
        "subscriptions",
        "messages",
        "excluded_from_messages",
        "receipts",
    ]
    assert data["user_id"] == "alice"
    first, _, last = data["subscriptions"]
    assert list(first) == [
        "id", "label", "endpoint", "created_at", "updated_at", "expires_at", "last_sent_at", "vapid_key", "failures", "failing_since",
    ]  # fmt: skip
    assert (last["label"], last["endpoint"], last["failures"]) == ("My phone", body["endpoint"], None)
    assert first["failing_since"] == "2026-01-02T03:04:05+00:00"
    assert [message["message"]["title"] for message in data["messages"]] == ["To alice"]
    assert datetime.fromisoformat(data["messages"][0]["created_at"]).utcoffset() is not None
    assert "bob" not in done.stdout
    assert not any(key in done.stdout for key in body["keys"].values())


def test_a_user_without_data_is_no_error(app: Flask) -> None:
    assert json.loads(push(app, "export", "carol").stdout) == {
        "user_id": "carol", "channels": [], "subscriptions": [], "messages": [], "excluded_from_messages": [], "receipts": [],
    }  # fmt: skip
    assert push(app, "erase", "carol").stdout == "Deleted 0 subscriptions and 0 messages of carol.\n"


def lists(app: Flask) -> list[Any]:
    with app.app_context(), engine().connect() as connection:
        table = PushMessage.__table__
        query = select(table.c.user_id, table.c.audience).order_by(table.c.id)
        return [row.user_id or row.audience for row in connection.execute(query)]


LATER = datetime.now(UTC) + timedelta(days=1)


def test_lists_go_on_without_the_user(app: Flask) -> None:
    enqueue(app, ["ann", "zoë", "Ann"], at=LATER)
    enqueue(app, EVERYONE, exclude=["zoë"], at=LATER)
    enqueue(app, Channel("zoe-2"), exclude=["zoë", "bob"], at=LATER)
    enqueue(app, "bob", exclude=["zoë"], at=LATER)
    enqueue(app, ["bob", 'zoë"'], exclude=["%zo_%"], at=LATER)
    before = lists(app)
    push(app, "erase", "Zoë")
    assert lists(app) == before
    push(app, "erase", "zoë")
    assert lists(app) == [
        {"user_ids": ["ann", "Ann"]}, None, {"channel": "zoe-2", "exclude": ["bob"]}, "bob", before[-1],
    ]  # fmt: skip


def test_a_message_to_one_user_and_to_a_device_are_deleted(app: Flask) -> None:
    alice = signed_in(app, "alice")
    post(alice, subscription())
    (stored,) = alice.get("/push/subscriptions").get_json()["subscriptions"]
    for to in (["alice"], Device(stored["id"])):
        enqueue(app, to, at=LATER)
    assert push(app, "erase", "alice").stdout == "Deleted 1 subscriptions and 2 messages of alice.\n"
    assert [count(app, table) for table in TABLES_OF_USERS] == [0] * len(TABLES_OF_USERS)


def test_channels_are_left_and_exported(app: Flask) -> None:
    with app.app_context():
        for user, channel in (("alice", "news"), ("alice", "deals"), ("bob", "news")):
            join(user, channel)
        assert json.loads(push(app, "export", "alice").stdout)["channels"] == ["deals", "news"]
        pushapp.erase("alice")
        assert channels_of("alice") == []
        assert channels_of("bob") == ["news"]


def test_export_says_what_lists_have_the_user_and_names_no_other_user(app: Flask) -> None:
    first = enqueue(app, ["alice", "bob"], at=LATER)
    second = enqueue(app, EVERYONE, exclude=["alice", "bob"], at=LATER)
    enqueue(app, ["bob"], at=LATER)
    done = push(app, "export", "alice")
    data = json.loads(done.stdout)
    assert [message["id"] for message in data["messages"]] == [first]
    assert data["excluded_from_messages"] == [second]
    assert "bob" not in done.stdout


def test_receipts_are_exported_and_deleted(app: Flask) -> None:
    alice = signed_in(app, "alice")
    post(alice, subscription())
    (stored,) = alice.get("/push/subscriptions").get_json()["subscriptions"]
    to_alice, to_all = enqueue(app, "alice", at=LATER), enqueue(app, EVERYONE, at=LATER)
    with app.app_context():
        for message_id in (to_alice, to_all):
            receipts.record(message_id, stored["id"], "shown")
    exported = json.loads(push(app, "export", "alice").stdout)["receipts"]
    assert [(each["message_id"], each["event"]) for each in exported] == [
        (to_alice, "shown"),
        (to_all, "shown"),
    ]
    push(app, "erase", "alice")
    assert [count(app, table) for table in RECEIPTS] == [0, 1]  # the count of the broadcast names no user


@pytest.mark.parametrize("command", ["erase", "export"])
def test_an_invalid_id_is_a_usage_error(app: Flask, command: str) -> None:
    done = push(app, command, "a\nb")
    assert (done.exit_code, "control characters" in done.output) == (2, True)
    with app.app_context(), pytest.raises(ValueError, match="control characters"):
        pushapp.erase("")
