"""Renewals of subscriptions by possession: what they store, and what wins when requests race."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from pushapp.database import transaction
from pushapp.sending import failures, recipients
from pushapp.sending.audience import Audience
from tests.conftest import signed_in
from tests.support.http import post, rows
from tests.support.subscriptions import subscription

ROUNDS = 12


def renewal(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {"endpoint": old["endpoint"], "auth": old["keys"]["auth"], "subscription": new}


def renew(app: Flask, old: dict[str, Any], new: dict[str, Any]) -> Any:
    return post(app.test_client(), renewal(old, new), "/push/renew")


def test_a_renewal_needs_no_session_and_keeps_id_user_and_label(app: Flask, alice: FlaskClient) -> None:
    old, new = subscription(label="Phone"), subscription()
    post(alice, old)
    (before,) = rows(app)
    response = renew(app, old, new)
    assert (response.status_code, response.json) == (200, {"ok": True})
    (after,) = rows(app)
    assert (after.id, after.user_id, after.label) == (before.id, "alice", "Phone")
    assert (after.endpoint, after.keys_auth) == (new["endpoint"], new["keys"]["auth"])
    assert after.updated_at > before.updated_at


def test_a_wrong_auth_and_an_unknown_endpoint_get_the_same_response(app: Flask, alice: FlaskClient) -> None:
    stored = subscription()
    post(alice, stored)
    wrong_auth = subscription(endpoint=stored["endpoint"])
    first = renew(app, wrong_auth, subscription())
    second = renew(app, subscription(), subscription())
    assert first.status_code == second.status_code == 404
    assert first.data == second.data
    assert [row.endpoint for row in rows(app)] == [stored["endpoint"]]


def test_the_renewed_row_stays_where_the_new_endpoint_is_stored_already(
    app: Flask, alice: FlaskClient
) -> None:
    old, new = subscription(), subscription()
    post(alice, old)
    (before,) = rows(app)
    post(alice, new)
    assert renew(app, old, new).status_code == 200
    (after,) = rows(app)
    assert (after.id, after.endpoint) == (before.id, new["endpoint"])


@pytest.mark.parametrize("missing", ["endpoint", "auth", "subscription"])
def test_a_missing_field_is_named(app: Flask, missing: str) -> None:
    body = renewal(subscription(), subscription())
    del body[missing]
    response = post(app.test_client(), body, "/push/renew")
    assert response.status_code == 422
    assert missing in response.json["errors"]["json"]


def test_the_new_subscription_is_validated_as_in_subscribe(app: Flask, alice: FlaskClient) -> None:
    old = subscription()
    post(alice, old)
    response = renew(app, old, subscription(endpoint="https://127.0.0.1/x"))
    assert response.status_code == 422
    assert "endpoint" in response.json["errors"]["json"]["subscription"]


def test_a_cross_site_renewal_is_rejected(app: Flask) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    body = renewal(subscription(), subscription())
    assert app.test_client().post("/push/renew", json=body, headers=headers).status_code == 403
    assert app.test_client().post("/push/renew", data="x").status_code == 415
    assert app.test_client().post("/push/renew", json={"x": "y" * 20_000}).status_code == 413


def test_a_subscription_sent_before_its_renewal_makes_no_second_row(app: Flask, alice: FlaskClient) -> None:
    old, new = subscription(), subscription()
    post(alice, old)
    renew(app, old, new)
    assert post(alice, old).json == {"ok": True, "count": 1}
    assert [row.endpoint for row in rows(app)] == [new["endpoint"]]


def test_a_410_for_the_old_endpoint_does_not_delete_the_renewed_row(app: Flask, alice: FlaskClient) -> None:
    old = subscription()
    post(alice, old)
    with app.app_context(), transaction() as connection:
        found = recipients.load(connection, Audience(user_ids=("alice",)), datetime.now(UTC), last_id=2**62)
    renew(app, old, subscription())
    with app.app_context(), transaction() as connection:
        failures.delete_gone(connection, found)
    assert len(rows(app)) == 1


def race(*calls: Callable[[], Any]) -> list[Any]:
    start = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        start.wait()
        results[number] = calls[number]()

    threads = [threading.Thread(target=run, args=[number]) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_two_renewals_at_once_one_row_stays(app: Flask, alice: FlaskClient) -> None:
    for _ in range(ROUNDS):
        old, new = subscription(), [subscription(), subscription()]
        post(alice, old)
        responses = race(lambda: renew(app, old, new[0]), lambda: renew(app, old, new[1]))  # noqa: B023  # awaited
        assert {response.status_code for response in responses} <= {200, 404}
        (row,) = rows(app)
        assert row.endpoint in [body["endpoint"] for body in new]
        post(alice, {"endpoint": row.endpoint}, "/push/unsubscribe")


@pytest.mark.parametrize("posted", ["old", "new"])
@pytest.mark.parametrize("user", ["alice", "bob"])
def test_a_renewal_and_a_subscribe_at_once_end_in_one_row(app: Flask, user: str, posted: str) -> None:
    for _ in range(ROUNDS):
        bodies = {"old": subscription(), "new": subscription()}
        post(signed_in(app, "alice"), bodies["old"])
        client = signed_in(app, user)
        responses = race(
            lambda: renew(app, bodies["old"], bodies["new"]),  # noqa: B023  # awaited
            lambda: post(client, bodies[posted]),  # noqa: B023  # awaited
        )
        assert {response.status_code for response in responses} <= {200, 404}
        (row,) = rows(app)
        post(signed_in(app, row.user_id), {"endpoint": row.endpoint}, "/push/unsubscribe")


def test_a_renewal_and_an_unsubscribe_at_once_end_in_at_most_one_row(app: Flask, alice: FlaskClient) -> None:
    for _ in range(ROUNDS):
        old, new = subscription(), subscription()
        post(alice, old)
        race(
            lambda: renew(app, old, new),  # noqa: B023  # awaited
            lambda: post(signed_in(app, "alice"), {"endpoint": old["endpoint"]}, "/push/unsubscribe"),  # noqa: B023
        )
        assert len(rows(app)) <= 1
        post(alice, {"endpoint": new["endpoint"]}, "/push/unsubscribe")


class TestDevices:
    def test_the_list_has_label_and_time_of_the_last_message(self, app: Flask, alice: FlaskClient) -> None:
        post(alice, subscription(label="Firefox on Linux"))
        (listed,) = alice.get("/push/subscriptions").get_json()["subscriptions"]
        assert (listed["label"], listed["last_sent_at"]) == ("Firefox on Linux", None)

    def test_a_subscribe_without_a_label_leaves_it(self, app: Flask, alice: FlaskClient) -> None:
        body = subscription(label="Phone")
        post(alice, body)
        del body["label"]
        post(alice, body | {"expirationTime": 1_900_000_000_000})
        assert rows(app)[0].label == "Phone"

    def test_a_label_is_changed_by_its_user_only(
        self, app: Flask, alice: FlaskClient, bob: FlaskClient
    ) -> None:
        post(alice, subscription())
        path = f"/push/subscriptions/{rows(app)[0].id}"
        assert bob.patch(path, json={"label": "Mine"}).status_code == 404
        changed = alice.patch(path, json={"label": "Phone"})
        assert (changed.status_code, changed.get_json()["label"]) == (200, "Phone")

    @pytest.mark.parametrize("label", ["", " ", "x" * 101, "a\nb", None, 1])
    def test_an_invalid_label_is_named(self, app: Flask, alice: FlaskClient, label: object) -> None:
        post(alice, subscription())
        response = alice.patch(f"/push/subscriptions/{rows(app)[0].id}", json={"label": label})
        assert response.status_code == 422
        assert "label" in response.get_json()["errors"]["json"]
        assert "label" in post(alice, subscription(label=label)).json["errors"]["json"]

    def test_another_vapid_key_is_a_conflict(self, app: Flask, alice: FlaskClient) -> None:
        key = app.test_client().get("/push/vapid-public-key").get_json()["publicKey"]
        other = subscription()["keys"]["p256dh"]
        assert post(alice, subscription(applicationServerKey=key)).status_code == 200
        assert post(alice, subscription(applicationServerKey=other)).status_code == 409
        assert post(alice, subscription(applicationServerKey="x")).status_code == 422
