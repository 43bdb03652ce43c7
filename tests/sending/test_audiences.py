"""To whom a message goes: users, channels, devices, everyone, and who is left out. On both databases."""

from typing import Any

import pytest
from flask import Flask

import pushapp
from pushapp import EVERYONE, Channel, Device, Message, MessageError
from pushapp.sending import batches
from tests.conftest import signed_in
from tests.support.http import post, rows
from tests.support.push_server import PushServer
from tests.support.sending import TOKEN, counts, drain, enqueue, execute, queued_only, scalar, send, status


@pytest.fixture
def app(sending_app: Flask) -> Flask:
    return sending_app


@pytest.fixture
def browsers(app: Flask, push_server: PushServer) -> dict[str, list[Any]]:
    """Three users with two browsers each."""
    bodies: dict[str, list[Any]] = {}
    for user in ("alice", "bob", "carol"):
        bodies[user] = [push_server.subscription() for _ in range(2)]
        for body in bodies[user]:
            post(signed_in(app, user), body)
    return bodies


def received(push_server: PushServer, browsers: dict[str, list[Any]]) -> dict[str, list[int]]:
    """How many messages each browser got, by user."""
    return {user: [len(push_server.pushes_to(body)) for body in own] for user, own in browsers.items()}


ALL = {"alice": [1, 1], "bob": [1, 1], "carol": [1, 1]}
NONE = {"alice": [0, 0], "bob": [0, 0], "carol": [0, 0]}


@pytest.mark.parametrize(
    ("to", "exclude", "expected"),
    [
        (["alice", "bob"], [], ALL | {"carol": [0, 0]}),
        (("alice", "alice", "unknown"), [], NONE | {"alice": [1, 1]}),
        ({"alice", "bob"}, ["bob"], NONE | {"alice": [1, 1]}),
        ("alice", ["alice"], NONE),
        ([], [], NONE),
        (EVERYONE, ["alice", "unknown"], ALL | {"alice": [0, 0]}),
        (EVERYONE, ("alice", "bob", "carol"), NONE),
        (Channel("news"), [], ALL | {"carol": [0, 0]}),
        (Channel("news"), {"bob"}, NONE | {"alice": [1, 1]}),
        (Channel("empty"), [], NONE),
        ("first device", [], NONE | {"alice": [1, 0]}),
        ("first device", ["bob"], NONE | {"alice": [1, 0]}),
        ("first device", ["alice"], NONE),
        (Device(0), [], NONE),
        (Device(2**63 - 1), [], NONE),
    ],
)
def test_each_browser_of_the_audience_gets_the_message_once(
    app: Flask,
    push_server: PushServer,
    browsers: dict[str, list[Any]],
    *,
    to: Any,
    exclude: Any,
    expected: Any,
) -> None:
    with app.app_context():
        for user in ("alice", "bob", "without browsers"):
            pushapp.join(user, "news")
    found = send(app, Device(rows(app)[0].id) if to == "first device" else to, exclude=exclude)
    assert received(push_server, browsers) == expected
    number = sum(sum(each) for each in expected.values())
    assert (found.state, found.recipients, counts(found)) == ("done", number, (number, 0, 0))


@pytest.mark.parametrize(
    ("to", "reached"),
    [
        ({"user_ids": ["alice", "bob"]}, {"alice", "bob"}),
        ({"channel": "news"}, {"alice"}),
        ({"everyone": True}, {"alice", "bob", "carol"}),
        ({"subscription_id": None}, {"alice"}),
    ],
)
def test_the_messages_api_has_the_same_audiences(
    app: Flask, push_server: PushServer, browsers: dict[str, list[Any]], to: Any, reached: set[str]
) -> None:
    with app.app_context():
        pushapp.join("alice", "news")
    if "subscription_id" in to:
        to = {"subscription_id": rows(app)[0].id}
    body = {"to": to, "exclude": {"user_ids": ["carol"]}, "notification": {"title": "x"}}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert post(app.test_client(), body, "/push/messages", headers=headers).status_code == 202
    drain(app)
    found = received(push_server, browsers)
    assert {user for user, numbers in found.items() if any(numbers)} == reached - {"carol"}


@pytest.mark.parametrize(
    ("arguments", "reached"),
    [
        (["alice", "bob"], {"alice", "bob"}),
        (["alice", "bob", "--exclude", "bob"], {"alice"}),
        (["--channel", "news"], {"alice"}),
        (["--everyone", "--exclude", "alice", "--exclude", "bob"], {"carol"}),
        (["--device"], {"alice"}),
    ],
)
def test_the_shell_has_the_same_audiences(
    app: Flask,
    push_server: PushServer,
    browsers: dict[str, list[Any]],
    arguments: list[str],
    reached: set[str],
) -> None:
    with app.app_context():
        pushapp.join("alice", "news")
    if arguments == ["--device"]:
        arguments = ["--device", str(rows(app)[0].id)]
    done = app.test_cli_runner().invoke(args=["push", "send", "--title", "x", *arguments])
    assert done.exit_code == 0, done.output
    drain(app)
    found = received(push_server, browsers)
    assert {user for user, numbers in found.items() if any(numbers)} == reached


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("to", {"to": ["alice", ""]}),
        ("to", {"to": ["u"] * 10_001}),
        ("to", {"to": object()}),
        ("exclude", {"exclude": "alice"}),
        ("exclude", {"exclude": [None]}),
        ("exclude", {"exclude": None}),
        ("exclude", {"exclude": range(10_001)}),
    ],
)
def test_an_invalid_audience_is_rejected(app: Flask, field: str, arguments: dict[str, Any]) -> None:
    with app.app_context(), pytest.raises(MessageError) as rejection:
        pushapp.send(Message(title="x"), **{"to": "alice"} | arguments)
    assert rejection.value.field == field


@pytest.mark.parametrize("device", [-1, 2**63, "7", 7.0, True, None])
def test_an_invalid_device_is_rejected(device: Any) -> None:
    with pytest.raises(ValueError, match="integer"):
        Device(device)


@queued_only
class TestBetweenSendAndDelivery:
    def test_a_browser_that_moves_out_of_the_audience_gets_nothing(
        self, app: Flask, push_server: PushServer, browsers: dict[str, list[Any]]
    ) -> None:
        with app.app_context():
            pushapp.join("alice", "news")
        for to in (["alice", "bob"], Channel("news")):
            enqueue(app, to)
        post(signed_in(app, "carol"), browsers["alice"][0])
        drain(app)
        assert received(push_server, browsers)["alice"] == [0, 2]

    def test_a_renewed_browser_gets_the_message(
        self, app: Flask, push_server: PushServer, browsers: dict[str, list[Any]]
    ) -> None:
        with app.app_context():
            pushapp.join("alice", "news")
        enqueue(app, Channel("news"))
        old, new = browsers["alice"][0], push_server.subscription()
        body = {"endpoint": old["endpoint"], "auth": old["keys"]["auth"], "subscription": new}
        assert post(app.test_client(), body, "/push/renew").status_code == 200
        drain(app)
        assert len(push_server.pushes_to(new)) == 1

    def test_a_user_that_leaves_gets_nothing_and_a_later_browser_neither(
        self, app: Flask, push_server: PushServer, browsers: dict[str, list[Any]]
    ) -> None:
        with app.app_context():
            for user in ("alice", "bob"):
                pushapp.join(user, "news")
            message_id = pushapp.send(Message(title="x"), to=Channel("news"))
            list(batches.fan_out(scalar(app, "SELECT id FROM push_batches")))
            pushapp.leave("alice", "news")
        late = push_server.subscription()
        post(signed_in(app, "bob"), late)
        drain(app)
        assert received(push_server, browsers) == NONE | {"bob": [1, 1]}
        assert push_server.pushes_to(late) == []
        assert counts(status(app, message_id)) == (2, 2, 0)


def test_a_new_browser_of_a_member_belongs_to_its_channels(app: Flask, push_server: PushServer) -> None:
    with app.app_context():
        pushapp.join("alice", "news")
    body = push_server.subscription()
    post(signed_in(app, "alice"), body)
    assert counts(send(app, Channel("news"))) == (1, 0, 0)


def test_a_channel_is_fanned_out_in_parts(
    app: Flask, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.sending.recipients.BATCH_SIZE", 2)
    monkeypatch.setattr("pushapp.sending.recipients.MEMBERS_PER_PART", 3)
    monkeypatch.setattr("pushapp.sending.recipients.USERS_PER_QUERY", 2)
    bodies = [push_server.subscription() for _ in range(11)]
    with app.app_context():
        for number in range(16):
            pushapp.join(f"user {number}", "news")
    for number, body in enumerate(bodies):
        post(signed_in(app, f"user {number}"), body)
    found = send(app, Channel("news"))
    assert (found.state, found.recipients, counts(found)) == ("done", 11, (11, 0, 0))
    assert all(len(push_server.pushes_to(body)) == 1 for body in bodies)


@queued_only
def test_a_newer_message_replaces_an_older_one_only_for_its_audience(
    app: Flask, push_server: PushServer, browsers: dict[str, list[Any]]
) -> None:
    """Retries of the older one are due: those who get the newer one do not get it (RFC 8030, section 5.4)."""
    for own in browsers.values():
        for body in own:
            path = body["endpoint"].removeprefix(push_server.origin)
            push_server.responses[path] = (503, {"Retry-After": "0"}, b"")
    with app.app_context():
        pushapp.join("alice", "news")
    older = enqueue(app, EVERYONE, Message(title="older", topic="t"))
    newer = [Channel("news"), ["bob", "dave"]]
    execute(app, "UPDATE push_batches SET attempts = 1")
    with app.app_context():
        list(batches.fan_out(scalar(app, "SELECT id FROM push_batches")))
    execute(app, "UPDATE push_batches SET attempts = 1")
    for to in newer:
        enqueue(app, to, Message(title="newer", topic="t"))
    push_server.responses.clear()
    drain(app)
    found = status(app, older)
    assert (found.sent, found.replaced) == (2, 4)
    titles = [push.message["notification"]["title"] for push in push_server.pushes_to(browsers["carol"][0])]
    assert titles == ["older"]
