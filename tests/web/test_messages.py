"""POST /push/messages and GET /push/messages/<id>, on both databases."""

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import signed_in
from tests.support.http import post
from tests.support.push_server import PushServer
from tests.support.sending import TOKEN, drain, queued_only, scalar
from tests.support.threads import run_concurrently
from tests.support.waiting import wait_until


@pytest.fixture
def app(sending_app: Flask) -> Flask:
    return sending_app


def message(**fields: Any) -> dict[str, Any]:
    return {"to": {"user_id": "alice"}, "notification": {"title": "Hello"}} | fields


def test_a_message_is_sent_and_its_status_returned(
    app: Flask, service: FlaskClient, push_server: PushServer
) -> None:
    body = push_server.subscription()
    post(signed_in(app, "alice"), body)
    shown = {
        "title": "T", "body": "B", "navigate": "/x", "icon": "/i.png", "image": "/p.png", "badge": "/b.png",
        "tag": "t", "data": {"a": [1]}, "lang": "de", "dir": "rtl", "silent": False, "renotify": True,
        "requireInteraction": True, "timestamp": 1_700_000_000_000, "vibrate": [200, 100],
        "actions": [{"action": "a", "title": "A", "navigate": "/a", "icon": "/a.png"}],
    }  # fmt: skip
    sent = message(notification=shown, app_badge=0, ttl=9, urgency="high", topic="t")
    response = post(service, sent, "/push/messages")
    assert response.status_code == 202, response.json
    assert list(response.json) == ["id"]
    drain(app)
    found = service.get(f"/push/messages/{response.json['id']}")
    assert found.status_code == 200
    status = found.get_json()
    assert datetime.fromisoformat(status.pop("created_at")).utcoffset() is not None
    assert status == {
        "id": response.json["id"], "state": "done", "send_at": None, "recipients": 1, "sent": 1, "gone": 0,
        "failed": 0, "expired": 0, "replaced": 0, "cancelled": 0, "shown": 0, "clicked": 0,
    }  # fmt: skip
    (push,) = push_server.pushes_to(body)
    assert push.message == {"web_push": 8030, "notification": shown, "app_badge": 0}
    assert push.headers["urgency"] == "high"


def test_urls_are_absolute_with_the_sites_url(
    make_app: Callable[..., Flask], sending_app: Flask, push_server: PushServer
) -> None:
    app = make_app(
        PUSH_SITE_URL="https://example.com",
        PUSH_API_TOKENS=[TOKEN],
        PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin],
    )
    body = push_server.subscription()
    post(signed_in(app, "alice"), body)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    shown = {"title": "T", "icon": "/i.png", "actions": [{"action": "a", "title": "A", "navigate": "/a"}]}
    post(app.test_client(), message(notification=shown), "/push/messages", headers=headers)
    drain(app)
    (push,) = push_server.pushes_to(body)
    assert push.message["notification"] == {
        "title": "T", "navigate": "https://example.com/", "icon": "https://example.com/i.png",
        "actions": [{"action": "a", "title": "A", "navigate": "https://example.com/a"}],
    }  # fmt: skip
    long = message(notification={"title": "x" * 3_930})
    response = post(app.test_client(), long, "/push/messages", headers=headers)
    assert response.status_code == 422
    assert "3993 bytes" in response.json["errors"]["json"]["notification"][0]


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
    assert service.get(f"/push/messages/{message_id}").get_json()["state"] == "queued"


@queued_only
def test_a_message_gets_503_while_the_queue_is_locked_and_is_not_stored(
    app: Flask, service: FlaskClient, database_url: str, push_server: PushServer
) -> None:
    post(signed_in(app, "alice"), push_server.subscription())
    with psycopg.connect(database_url) as connection:
        connection.execute("LOCK TABLE push_queue.procrastinate_jobs IN ACCESS EXCLUSIVE MODE")
        started_at = time.monotonic()
        response = post(service, message(), "/push/messages")
        assert time.monotonic() - started_at < 3
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert scalar(app, "SELECT count(*) FROM push_messages") == 0
    wait_until(lambda: post(service, message(), "/push/messages").status_code == 202)
    drain(app)
    assert len(push_server.pushes) == 1


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


def test_an_idempotency_key_with_another_body_is_rejected(service: FlaskClient) -> None:
    headers = {"Idempotency-Key": "order 66"}
    body = message(send_at="2027-01-01T00:00:00Z")
    first = post(service, body, "/push/messages", headers=headers)
    changes: list[dict[str, Any]] = [
        {"to": {"user_id": "bob"}}, {"to": {"everyone": True}}, {"notification": {"title": "Other"}},
        {"exclude": {"user_ids": ["bob"]}}, {"ttl": 5}, {"send_at": "2027-01-01T00:00:01Z"},
    ]  # fmt: skip
    for change in changes:
        response = post(service, body | change, "/push/messages", headers=headers)
        assert response.status_code == 422, change
        assert response.json["errors"]["headers"]["Idempotency-Key"]
    assert post(service, body, "/push/messages", headers=headers).json == first.json


def test_an_idempotency_key_belongs_to_its_token(app: Flask, service: FlaskClient) -> None:
    ids = [
        post(
            app.test_client(),
            message(notification={"title": token}),
            "/push/messages",
            headers={"Authorization": f"Bearer {token}", "Idempotency-Key": "7"},
        ).json["id"]
        for token in (TOKEN, "other", TOKEN)
    ]
    assert ids[0] == ids[2] != ids[1]


def test_concurrent_requests_with_one_idempotency_key_send_one_message(
    app: Flask, service: FlaskClient, push_server: PushServer
) -> None:
    post(signed_in(app, "alice"), push_server.subscription())
    responses = []
    headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": "7"}

    def request() -> None:
        responses.append(post(app.test_client(), message(), "/push/messages", headers=headers))

    run_concurrently(*[request] * 4)
    assert {(response.status_code, response.json["id"]) for response in responses} == {
        (202, responses[0].json["id"])
    }
    drain(app)
    assert len(push_server.pushes) == 1


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
        alice.delete("/push/messages/1", headers=headers),
    ):
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].lower().startswith("bearer")
        assert response.get_json()["code"] == 401


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
    assert service.post("/push/messages", json={"x": "y" * 1_000_000}).status_code == 422
    assert service.post("/push/messages", json={"x": "y" * 1_050_000}).status_code == 413


@pytest.mark.parametrize("path", ["0", "9223372036854775807", "x", "-1"])
def test_an_unknown_message_is_not_found(service: FlaskClient, path: str) -> None:
    assert service.get(f"/push/messages/{path}").status_code == 404
    assert service.delete(f"/push/messages/{path}").status_code == 404


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
        ({"to": {"user_ids": "alice"}}, ["to", "user_ids"]),
        ({"to": {"user_ids": ["alice", ""]}}, ["to", "user_ids"]),
        ({"to": {"user_ids": ["u"] * 10_001}}, ["to", "user_ids"]),
        ({"to": {"channel": "News"}}, ["to", "channel"]),
        ({"to": {"channel": "x" * 65}}, ["to", "channel"]),
        ({"to": {"channel": "news\n"}}, ["to", "channel"]),
        ({"to": {"subscription_id": "7"}}, ["to", "subscription_id"]),
        ({"to": {"subscription_id": -1}}, ["to", "subscription_id"]),
        ({"to": {"subscription_id": 2**63}}, ["to", "subscription_id"]),
        ({"to": {"everyone": 1}}, ["to", "everyone"]),
        ({"to": {"user": "alice"}}, ["to", "user"]),
        ({"exclude": ["alice"]}, ["exclude"]),
        ({"exclude": {}}, ["exclude", "user_ids"]),
        ({"exclude": {"user_ids": [7]}}, ["exclude", "user_ids"]),
        ({"exclude": {"user_ids": [], "channel": "news"}}, ["exclude", "channel"]),
        ({"at": "2030-01-01T00:00:00Z"}, ["at"]),
        ({"require_interaction": True}, ["require_interaction"]),
        ({"send_at": "2027-01-01T00:00:00"}, ["send_at"]),
        ({"send_at": "2027-01-01"}, ["send_at"]),
        ({"send_at": "2027-02-30T00:00:00Z"}, ["send_at"]),
        ({"send_at": "2999-01-01T00:00:00Z"}, ["send_at"]),
        ({"send_at": 1_800_000_000}, ["send_at"]),
        ({"send_at": None}, ["send_at"]),
        ({"app_badge": -1}, ["app_badge"]),
        ({"app_badge": True}, ["app_badge"]),
        ({"notification": {"title": "x", "app_badge": 1}}, ["notification", "app_badge"]),
        (
            {"notification": {"title": "x", "require_interaction": True}},
            ["notification", "require_interaction"],
        ),
        ({"notification": {"title": "x", "requireInteraction": 1}}, ["notification", "requireInteraction"]),
        ({"notification": {"title": "x", "silent": "no"}}, ["notification", "silent"]),
        ({"notification": {"title": "x", "silent": True, "vibrate": [1]}}, ["notification", "silent"]),
        ({"notification": {"title": "x", "renotify": True}}, ["notification", "renotify"]),
        ({"notification": {"title": "x", "dir": "left"}}, ["notification", "dir"]),
        ({"notification": {"title": "x", "vibrate": ["long"]}}, ["notification", "vibrate"]),
        ({"notification": {"title": "x", "vibrate": None}}, ["notification", "vibrate"]),
        ({"notification": {"title": "x", "timestamp": "now"}}, ["notification", "timestamp"]),
        ({"notification": {"title": "x", "timestamp": 10**16}}, ["notification", "timestamp"]),
        (
            {"notification": {"title": "x", "actions": [{"action": "a", "title": "A", "url": "/"}]}},
            ["notification", "actions"],
        ),
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


@pytest.mark.parametrize(("levels", "status"), [(100, 202), (101, 422), (972, 422), (30_000, 422)])
def test_data_has_a_limited_number_of_levels(service: FlaskClient, levels: int, status: int) -> None:
    data = json.dumps(message(notification={"title": "x", "data": 0}))
    data = data.replace('"data": 0', f'"data": {"[" * levels}{"]" * levels}')
    response = service.post("/push/messages", data=data, content_type="application/json")
    assert response.status_code == status
    if levels == 101:
        assert "data" in response.get_json()["errors"]["json"]["notification"]


def test_a_ttl_over_28_days_is_accepted(service: FlaskClient) -> None:
    assert post(service, message(ttl=10**9), "/push/messages").status_code == 202
