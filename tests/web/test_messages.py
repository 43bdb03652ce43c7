"""POST /push/messages and GET /push/messages/<id>, on both databases."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import signed_in
from tests.support.http import post
from tests.support.push_server import PushServer
from tests.support.sending import TOKEN, drain, queued_only


@pytest.fixture
def app(sending_app: Flask) -> Flask:
    return sending_app


@pytest.fixture
def service(app: Flask) -> FlaskClient:
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    return client


def message(**fields: Any) -> dict[str, Any]:
    return {"to": {"user_id": "alice"}, "notification": {"title": "Hello"}} | fields


def test_a_message_is_sent_and_its_status_returned(
    app: Flask, service: FlaskClient, push_server: PushServer
) -> None:
    body = push_server.subscription()
    post(signed_in(app, "alice"), body)
    shown = {"title": "T", "body": "B", "navigate": "/x", "icon": "/i.png", "tag": "t", "data": {"a": [1]},
             "actions": [{"action": "a", "title": "A", "navigate": "/a"}]}  # fmt: skip
    response = post(service, message(notification=shown, ttl=9, urgency="high", topic="t"), "/push/messages")
    assert response.status_code == 202
    assert list(response.json) == ["id"]
    drain(app)
    found = service.get(f"/push/messages/{response.json['id']}")
    assert found.status_code == 200
    assert found.json == {
        "id": response.json["id"], "state": "done", "recipients": 1, "sent": 1, "gone": 0, "failed": 0,
        "shown": 0, "clicked": 0,
    }  # fmt: skip
    (push,) = push_server.pushes_to(body)
    assert push.message == {"web_push": 8030, "notification": shown}
    assert push.headers["urgency"] == "high"


def test_a_broadcast_reaches_all_users(app: Flask, service: FlaskClient, push_server: PushServer) -> None:
    for user in ("alice", "bob"):
        post(signed_in(app, user), push_server.subscription())
    assert post(service, message(to={"everyone": True}), "/push/messages").status_code == 202
    drain(app)
    assert len(push_server.pushes) == 2


@queued_only
def test_a_message_is_queued_before_it_is_sent(
    app: Flask, service: FlaskClient, push_server: PushServer
) -> None:
    post(signed_in(app, "alice"), push_server.subscription())
    message_id = post(service, message(), "/push/messages").json["id"]
    assert service.get(f"/push/messages/{message_id}").json["state"] == "queued"


def test_a_repeated_idempotency_key_sends_one_message(
    app: Flask, service: FlaskClient, push_server: PushServer
) -> None:
    post(signed_in(app, "alice"), push_server.subscription())
    headers = {"Idempotency-Key": "order 66"}
    responses = [post(service, message(), "/push/messages", headers=headers) for _ in range(3)]
    assert {response.status_code for response in responses} == {202}
    assert len({response.json["id"] for response in responses}) == 1
    assert (
        post(service, message(), "/push/messages", headers={"Idempotency-Key": "67"}).json
        != responses[0].json
    )
    drain(app)
    assert len(push_server.pushes) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "é"])
def test_an_invalid_idempotency_key_is_reported(service: FlaskClient, key: str) -> None:
    response = post(service, message(), "/push/messages", headers={"Idempotency-Key": key})
    assert response.status_code == 422
    assert "Idempotency-Key" in response.json["errors"]["headers"]


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer x", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer é"],
)
def test_a_token_is_required(app: Flask, alice: FlaskClient, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for response in (
        post(alice, message(), "/push/messages", headers=headers),
        alice.get("/push/messages/1", headers=headers),
    ):
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].lower().startswith("bearer")
        assert response.json["code"] == 401


def test_without_configured_tokens_all_are_rejected(make_app: Callable[..., Flask]) -> None:
    client = make_app().test_client()
    for authorization in ("Bearer ", "Bearer None", "Bearer []"):
        assert client.get("/push/messages/1", headers={"Authorization": authorization}).status_code == 401


def test_the_order_of_checks(app: Flask, service: FlaskClient) -> None:
    unauthenticated = app.test_client()
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert unauthenticated.post("/push/messages", data="x", headers=cross).status_code == 403
    assert unauthenticated.post("/push/messages", data="x").status_code == 415
    assert (
        unauthenticated.post("/push/messages", data="x", content_type="application/json").status_code == 401
    )
    assert service.post("/push/messages", data="x", content_type="application/json").status_code == 400
    assert service.put("/push/messages").status_code == 405
    assert service.post("/push/messages", json={"x": "y" * 20_000}).status_code == 413


@pytest.mark.parametrize("path", ["0", "9223372036854775807", "x", "-1"])
def test_an_unknown_message_is_not_found(service: FlaskClient, path: str) -> None:
    assert service.get(f"/push/messages/{path}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"to": None}, ["to"]),
        ({"to": {}}, ["to"]),
        ({"to": {"user_id": ""}}, ["to", "user_id"]),
        ({"to": {"user_id": 7}}, ["to", "user_id"]),
        ({"to": {"everyone": False}}, ["to", "everyone"]),
        ({"to": {"everyone": "yes"}}, ["to", "everyone"]),
        ({"to": {"everyone": True, "user_id": "alice"}}, ["to"]),
        ({"notification": None}, ["notification"]),
        ({"notification": {}}, ["notification", "title"]),
        ({"notification": {"title": ""}}, ["notification", "title"]),
        ({"notification": {"title": "x", "navigate": "javascript:x"}}, ["notification", "navigate"]),
        ({"notification": {"title": "x", "actions": [{}]}}, ["notification", "actions"]),
        ({"notification": {"title": "x" * 4_000}}, ["notification"]),
        ({"notification": {"title": "\ud800"}}, ["notification"]),
        ({"ttl": -1}, ["ttl"]),
        ({"ttl": "1"}, ["ttl"]),
        ({"ttl": 1.5}, ["ttl"]),
        ({"urgency": "now"}, ["urgency"]),
        ({"topic": "x" * 33}, ["topic"]),
        ({"topic": "a b"}, ["topic"]),
    ],
)
def test_an_invalid_field_is_reported(service: FlaskClient, fields: dict[str, Any], path: list[str]) -> None:
    response = post(service, message(**fields), "/push/messages")
    assert response.status_code == 422
    errors = response.json["errors"]["json"]
    for name in path:
        assert name in errors, errors
        errors = errors[name]


def test_a_ttl_over_28_days_is_accepted(service: FlaskClient) -> None:
    assert post(service, message(ttl=10**9), "/push/messages").status_code == 202
