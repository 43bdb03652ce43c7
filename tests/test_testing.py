"""`pushapp.testing`: suppressed sends, `captured`, `FakeBrowser`."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

import pushapp
from pushapp import EVERYONE, Channel, Message, MessageError
from pushapp.config import ConfigurationError
from pushapp.database import engine
from pushapp.testing import FakeBrowser, captured
from tests.conftest import signed_in
from tests.support.http import post
from tests.support.push_server import PushServer
from tests.support.sending import TOKEN, counts, drain, enqueue, queued_only, scalar, send, status

MESSAGE = Message(title="Hello", body="Grüße 🎉", navigate="/parcels/7")


@pytest.fixture
def suppressed_app(make_app: Callable[..., Flask], push_server: PushServer) -> Flask:
    """An application in the default of a test suite: TESTING suppresses sends."""
    return make_app(
        PUSH_SUPPRESS_SEND=None, PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin], PUSH_API_TOKENS=[TOKEN]
    )


def test_captured_lists_messages_and_to_whom_in_order(suppressed_app: Flask) -> None:
    other = Message(title="Other")
    with captured(suppressed_app) as sent:
        for message, to in ((MESSAGE, "alice"), (other, EVERYONE), (MESSAGE, 7)):
            enqueue(suppressed_app, to, message)
        assert sent == [(MESSAGE, "alice"), (other, EVERYONE), (MESSAGE, 7)]
    enqueue(suppressed_app, "alice")
    assert len(sent) == 3


def test_captured_sees_messages_of_the_http_api_and_of_the_command_line(suppressed_app: Flask) -> None:
    post(signed_in(suppressed_app, "alice"), FakeBrowser(suppressed_app, "bob").subscription)
    api, alice = suppressed_app.test_client(), signed_in(suppressed_app, "alice")
    with captured(suppressed_app) as sent:
        body = {"to": {"user_id": "alice"}, "notification": {"title": "By HTTP"}}
        for _ in range(2):
            headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": "once"}
            assert api.post("/push/messages", json=body, headers=headers).status_code == 202
        suppressed_app.test_cli_runner().invoke(args=["push", "send", "alice", "--title", "By command"])
        (stored,) = alice.get("/push/subscriptions").get_json()["subscriptions"]
        assert alice.post(f"/push/subscriptions/{stored['id']}/test").status_code == 202
    assert [message.title for message, _ in sent] == ["By HTTP", "By command", "Test notification"]
    assert [to for _, to in sent[:2]] == ["alice", "alice"]


def test_nothing_leaves_the_process_and_all_recipients_count_as_sent(
    suppressed_app: Flask, push_server: PushServer
) -> None:
    for user in ("alice", "bob"):
        post(signed_in(suppressed_app, user), push_server.subscription())
    to_alice, to_all = enqueue(suppressed_app, "alice"), enqueue(suppressed_app, EVERYONE)
    drain(suppressed_app)
    assert counts(status(suppressed_app, to_alice)) == (1, 0, 0)
    assert counts(status(suppressed_app, to_all)) == (2, 0, 0)
    assert status(suppressed_app, to_all).state == "done"
    assert scalar(suppressed_app, "SELECT count(*) FROM push_batches") == 0
    assert push_server.requests == 0


@queued_only
def test_a_suppressed_send_queues_nothing(suppressed_app: Flask, push_server: PushServer) -> None:
    post(signed_in(suppressed_app, "alice"), push_server.subscription())
    for to in ("alice", EVERYONE):
        enqueue(suppressed_app, to)
    assert scalar(suppressed_app, "SELECT count(*) FROM push_queue.procrastinate_jobs") == 0


def test_the_setting_decides_before_testing(make_app: Callable[..., Flask], push_server: PushServer) -> None:
    app = make_app(TESTING=False, PUSH_SUPPRESS_SEND=True, PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin])
    post(signed_in(app, "alice"), push_server.subscription())
    assert counts(send(app, "alice")) == (1, 0, 0)
    app.config["PUSH_SUPPRESS_SEND"] = None  # TESTING is often set after `init_app`
    app.testing = True
    assert counts(send(app, "alice")) == (1, 0, 0)
    assert push_server.requests == 0
    app.testing = False
    send(app, "alice")
    assert push_server.requests == 1
    with captured(app) as sent:
        send(app, "alice")
    assert (len(sent), push_server.requests) == (1, 1)


def test_a_wrong_setting_stops_the_start(make_app: Callable[..., Flask]) -> None:
    with pytest.raises(ConfigurationError, match="PUSH_SUPPRESS_SEND must be true or false"):
        make_app(PUSH_SUPPRESS_SEND="yes")


def test_invalid_messages_are_rejected_and_not_captured(suppressed_app: Flask) -> None:
    with captured(suppressed_app) as sent:
        with suppressed_app.app_context(), pytest.raises(MessageError, match="title"):
            pushapp.send(Message(title=""), to="alice")
        with pytest.raises(MessageError, match="to"):
            enqueue(suppressed_app, "")
    assert sent == []


def test_captures_nest(suppressed_app: Flask) -> None:
    with captured(suppressed_app) as outer:
        enqueue(suppressed_app, "alice")
        with captured(suppressed_app) as inner:
            enqueue(suppressed_app, "bob")
        with captured(suppressed_app) as empty, captured(suppressed_app):
            pass
        enqueue(suppressed_app, "carol")
    assert [to for _, to in outer] == ["alice", "bob", "carol"]
    assert [to for _, to in inner] == ["bob"]
    assert empty == []


@pytest.mark.parametrize("setting", [None, False])
def test_a_fake_browser_receives_what_its_user_is_sent(
    make_app: Callable[..., Flask], setting: bool | None
) -> None:
    app = make_app(PUSH_SUPPRESS_SEND=setting)
    alice, bob = FakeBrowser(app, "alice"), FakeBrowser(app, 7)
    assert counts(send(app, "alice", MESSAGE)) == (1, 0, 0)
    assert counts(send(app, EVERYONE, Message(title="To all"))) == (2, 0, 0)
    assert alice.received[0] == {
        "web_push": 8030,
        "notification": {"title": "Hello", "body": "Grüße 🎉", "navigate": "/parcels/7"},
    }
    assert [payload["notification"]["title"] for payload in alice.received] == ["Hello", "To all"]
    assert [payload["notification"]["title"] for payload in bob.received] == ["To all"]


def test_a_fake_browser_receives_at_once_also_while_captured(suppressed_app: Flask) -> None:
    browser = FakeBrowser(suppressed_app, "alice")
    with captured(suppressed_app) as sent:
        enqueue(suppressed_app, "alice", MESSAGE)
        assert sent == [(MESSAGE, "alice")]
        assert len(browser.received) == 1


def test_others_still_get_theirs_from_their_push_service(
    make_app: Callable[..., Flask], push_server: PushServer
) -> None:
    app = make_app(PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin])
    post(signed_in(app, "alice"), push_server.subscription())
    browser = FakeBrowser(app, "alice")
    assert counts(send(app, "alice")) == (2, 0, 0)
    assert (len(browser.received), len(push_server.pushes)) == (1, 1)


def test_the_routes_accept_what_a_fake_browser_would_post(suppressed_app: Flask) -> None:
    browser, alice = FakeBrowser(suppressed_app, "alice"), signed_in(suppressed_app, "alice")
    assert alice.post("/push/subscribe", json=browser.subscription).json == {"ok": True, "count": 1}
    endpoint = {"endpoint": browser.subscription["endpoint"]}
    assert alice.post("/push/unsubscribe", json=endpoint).get_json()["count"] == 0
    enqueue(suppressed_app, "alice")
    assert browser.received == []


def test_a_fake_browser_of_no_user_is_rejected(suppressed_app: Flask) -> None:
    with pytest.raises(ValueError, match="is not a user's id"):
        FakeBrowser(suppressed_app, "")


def test_a_message_for_later_and_one_in_a_transaction_are_captured_at_once(suppressed_app: Flask) -> None:
    browser = FakeBrowser(suppressed_app, "alice")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with captured(suppressed_app) as sent:
        later = enqueue(suppressed_app, ["alice"], at=tomorrow)
        with (
            suppressed_app.app_context(),
            engine().connect() as connection,
            connection.begin() as transaction,
        ):
            pushapp.send(MESSAGE, to=Channel("news"), connection=connection)
            transaction.rollback()
    assert [to for _, to in sent] == [["alice"], Channel("news")]
    assert status(suppressed_app, later).state == "scheduled"
    assert browser.received == []


@queued_only
def test_a_worker_delivers_what_a_suppressed_transaction_has_left(suppressed_app: Flask) -> None:
    browser = FakeBrowser(suppressed_app, "alice")
    with suppressed_app.app_context(), engine().connect() as connection, connection.begin():
        message_id = pushapp.send(MESSAGE, to="alice", connection=connection)
    assert browser.received == []
    drain(suppressed_app)
    assert (len(browser.received), status(suppressed_app, message_id).state) == (1, "done")


def test_a_suppressed_send_works_in_a_running_event_loop(suppressed_app: Flask) -> None:
    browser = FakeBrowser(suppressed_app, "alice")

    async def run() -> None:
        enqueue(suppressed_app, "alice")

    asyncio.run(run())
    assert len(browser.received) == 1


@queued_only
def test_a_suppressed_send_leaves_other_messages_alone(
    suppressed_app: Flask, push_server: PushServer
) -> None:
    post(signed_in(suppressed_app, "alice"), push_server.subscription())
    suppressed_app.config["PUSH_SUPPRESS_SEND"] = False
    queued = enqueue(suppressed_app, "alice")
    with captured(suppressed_app):
        enqueue(suppressed_app, "alice")
    assert status(suppressed_app, queued).state == "queued"
    drain(suppressed_app)
    assert push_server.requests == 1
