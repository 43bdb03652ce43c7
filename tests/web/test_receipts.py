"""POST /push/receipts: what browsers report, counted once a device."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from pushapp import ConfigurationError, Message, init_app
from pushapp.sending import outbox, receipts
from pushapp.sending.status import status
from tests.conftest import SECRET, signed_in
from tests.support.http import post
from tests.support.push_server import PushServer
from tests.support.sending import TOKEN, execute, scalar, send
from tests.support.threads import run_concurrently

PATH = "/push/receipts"


@pytest.fixture
def app(make_app: Callable[..., Flask], push_server: PushServer) -> Flask:
    """An application that asks for receipts."""
    return make_app(
        PUSH_RECEIPTS=True,
        PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin],
        PUSH_API_TOKENS=[TOKEN],
    )


def send_to(app: Flask, push_server: PushServer, devices: int = 1) -> tuple[int, list[str]]:
    """Send a message to devices of alice; return its id and their tokens."""
    for _ in range(devices):
        post(signed_in(app, "alice"), push_server.subscription())
    message_id = send(app, "alice").id
    return message_id, [push.message["receipt"] for push in push_server.pushes]


def report(app: Flask, token: str, event: str = "shown", **fields: Any) -> int:
    """Report an event as a service worker does; return the status."""
    status: int = post(app.test_client(), {"token": token, "event": event, **fields}, PATH).status_code
    return status


def counted(app: Flask, message_id: int) -> tuple[int, int]:
    """Return how many devices have shown a message, and clicked it."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    status = app.test_client().get(f"/push/messages/{message_id}", headers=headers).get_json()
    return status["shown"], status["clicked"]


def test_each_event_counts_once_a_device(app: Flask, push_server: PushServer) -> None:
    message_id, (first, second) = send_to(app, push_server, devices=2)
    assert counted(app, message_id) == (0, 0)
    for _ in range(3):
        assert report(app, first) == 204
    assert counted(app, message_id) == (1, 0)
    assert report(app, second) == 204
    assert report(app, second, "clicked", action="yes") == 204
    assert report(app, second, "clicked", action="no") == 204
    assert report(app, second, "closed", action=None) == 204
    assert counted(app, message_id) == (2, 1)
    with app.app_context():
        found = status(message_id)
    assert (found.sent, found.shown, found.clicked) == (2, 2, 1)


def test_a_receipt_needs_no_session_and_its_response_is_empty(app: Flask, push_server: PushServer) -> None:
    _, (token,) = send_to(app, push_server)
    response = post(app.test_client(), {"token": token, "event": "shown", "more": 1}, PATH)
    assert (response.status_code, response.data) == (204, b"")
    assert "Set-Cookie" not in response.headers


def test_a_wrong_token_changes_nothing(app: Flask, push_server: PushServer) -> None:
    message_id, (token,) = send_to(app, push_server)
    inner = "A" if token[20] != "A" else "B"
    for wrong in (token[:20] + inner + token[21:], token[:-1], token + "A", "A" * 43, "ü", "\x00", "x" * 100):
        assert report(app, wrong) == 403
    assert counted(app, message_id) == (0, 0)
    assert scalar(app, "SELECT count(*) FROM push_receipts") == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "token"), ({"event": "shown"}, "token"), ({"token": 5, "event": "shown"}, "token"),
        ({"token": "", "event": "shown"}, "token"), ({"token": "x" * 101, "event": "shown"}, "token"),
        ({"token": "x"}, "event"), ({"token": "x", "event": "seen"}, "event"), ({"token": "x", "event": None}, "event"),
        ({"token": "x", "event": "clicked", "action": 5}, "action"),
        ({"token": "x", "event": "clicked", "action": "\x00"}, "action"),
        ({"token": "x", "event": "clicked", "action": "x" * 256}, "action"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_named(app: Flask, body: dict[str, Any], field: str) -> None:
    response = post(app.test_client(), body, PATH)
    assert response.status_code == 422
    assert field in response.json["errors"]["json"]


def test_the_order_of_checks(app: Flask, client: FlaskClient) -> None:
    assert client.get(PATH).status_code == 405
    assert client.post(PATH, data="x", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.post(PATH, data="x").status_code == 415
    assert client.post(PATH, data="x", content_type="application/json").status_code == 400
    assert post(client, {"token": "x", "event": "x" * 20_000}, PATH).status_code == 413


def test_while_receipts_are_off_there_is_no_route_and_no_token(
    make_app: Callable[..., Flask], app: Flask, push_server: PushServer
) -> None:
    _, (token,) = send_to(app, push_server)
    off = make_app(PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin], PUSH_API_TOKENS=[TOKEN])
    for body in ({"token": token, "event": "shown"}, {"token": "x"}, {}):
        assert post(off.test_client(), body, PATH).status_code == 404
    push_server.pushes.clear()
    message_id = send(off, "alice").id
    assert "receipt" not in push_server.pushes[0].message
    assert counted(off, message_id) == (0, 0)


def test_a_token_outlives_a_change_of_the_secret(
    make_app: Callable[..., Flask], app: Flask, push_server: PushServer
) -> None:
    message_id, (token,) = send_to(app, push_server)
    settings = {"PUSH_RECEIPTS": True, "SECRET_KEY": "another", "PUSH_API_TOKENS": [TOKEN]}
    assert report(make_app(**settings), token) == 403
    assert report(make_app(**settings, SECRET_KEY_FALLBACKS=[SECRET]), token) == 204
    assert counted(app, message_id) == (1, 0)


def test_devices_that_report_at_once_are_all_counted(app: Flask, push_server: PushServer) -> None:
    message_id, tokens = send_to(app, push_server, devices=4)
    run_concurrently(*(lambda token=token: report(app, token) for token in tokens * 2))
    assert counted(app, message_id) == (4, 0)
    assert scalar(app, "SELECT count(*) FROM push_receipts") == 4


def test_receipts_of_a_deleted_message_are_deleted_and_later_ones_ignored(
    app: Flask, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "DELETE_BATCH_SIZE", 1)
    message_id, tokens = send_to(app, push_server, devices=3)
    for token in tokens[:2]:
        report(app, token)
    execute(app, "UPDATE push_messages SET created_at = :old", old=datetime.now(UTC) - timedelta(days=31))
    with app.app_context():
        assert outbox.prune() == 1
    for table in ("push_receipts", "push_receipt_counts"):
        assert scalar(app, f"SELECT count(*) FROM {table}") == 0
    assert report(app, tokens[2]) == 204
    assert scalar(app, "SELECT count(*) FROM push_receipts") == 0
    assert message_id


def test_a_count_is_spread_over_rows(app: Flask, push_server: PushServer) -> None:
    message_id, _ = send_to(app, push_server)
    with app.app_context():
        for subscription_id in range(100):
            receipts.record(message_id, subscription_id, "shown")
    assert scalar(app, "SELECT count(*) FROM push_receipt_counts") == receipts.SHARDS
    assert counted(app, message_id) == (100, 0)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_without_a_secret_the_start_stops(database_url: str, tmp_path: Any) -> None:
    host = Flask("host", instance_path=str(tmp_path))
    host.config.update(SQLALCHEMY_DATABASE_URI=database_url, PUSH_RECEIPTS=True)
    with pytest.raises(ConfigurationError, match="SECRET_KEY is not set: PUSH_RECEIPTS"):
        init_app(host)


def test_a_message_without_space_for_the_token_is_sent_without(app: Flask, push_server: PushServer) -> None:
    post(signed_in(app, "alice"), push_server.subscription())
    assert send(app, "alice", Message(title="x" * 3940)).sent == 1
    assert "receipt" not in push_server.pushes[0].message
