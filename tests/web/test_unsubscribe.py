"""POST /push/unsubscribe, and the list of a user's subscriptions to delete from, on both databases."""

from datetime import UTC, datetime, timedelta

import pytest
from flask.testing import FlaskClient

from tests.support.http import post
from tests.support.subscriptions import subscription


class TestUnsubscribe:
    def test_deletes_the_endpoint(self, alice: FlaskClient) -> None:
        body = subscription()
        post(alice, body)
        post(alice, subscription())
        for _ in range(2):
            response = post(alice, {"endpoint": body["endpoint"]}, "/push/unsubscribe")
            assert (response.status_code, response.json) == (200, {"ok": True, "count": 1})

    def test_deletes_no_subscription_of_another_user(self, alice: FlaskClient, bob: FlaskClient) -> None:
        body = subscription()
        post(alice, body)
        assert post(bob, {"endpoint": body["endpoint"]}, "/push/unsubscribe").json["count"] == 0
        assert alice.get("/push/subscriptions").get_json()["count"] == 1

    @pytest.mark.parametrize("endpoint", ["", "x", "x" * 2_048, "https://127.0.0.1/"])
    def test_an_unknown_endpoint_changes_nothing(self, alice: FlaskClient, endpoint: str) -> None:
        response = post(alice, {"endpoint": endpoint}, "/push/unsubscribe")
        assert (response.status_code, response.json) == (200, {"ok": True, "count": 0})

    @pytest.mark.parametrize("endpoint", ["\0", "\ud800", "\N{GRINNING FACE}", "x" * 2_049, None, 1, []])
    def test_an_invalid_endpoint_is_rejected(self, alice: FlaskClient, endpoint: object) -> None:
        response = post(alice, {"endpoint": endpoint}, "/push/unsubscribe")
        assert response.status_code == 422
        assert "endpoint" in response.json["errors"]["json"]


class TestDelete:
    def test_deletes_only_the_users_own_subscription(self, alice: FlaskClient, bob: FlaskClient) -> None:
        post(alice, subscription())
        (stored,) = alice.get("/push/subscriptions").get_json()["subscriptions"]
        other_users = bob.delete(f"/push/subscriptions/{stored['id']}")
        unknown = bob.delete(f"/push/subscriptions/{stored['id'] + 1}")
        assert other_users.status_code == unknown.status_code == 404
        assert other_users.data == unknown.data
        response = alice.delete(f"/push/subscriptions/{stored['id']}")
        assert (response.status_code, response.data) == (204, b"")
        assert alice.delete(f"/push/subscriptions/{stored['id']}").status_code == 404

    @pytest.mark.parametrize(
        "subscription_id",
        ["0", "-1", "x", "9223372036854775807", "9223372036854775808", "9" * 400],
    )
    def test_an_impossible_id_is_not_found(self, alice: FlaskClient, subscription_id: str) -> None:
        assert alice.delete(f"/push/subscriptions/{subscription_id}").status_code == 404


def test_the_list_contains_neither_keys_nor_endpoints(alice: FlaskClient) -> None:
    body = subscription()
    post(alice, body)
    response = alice.get("/push/subscriptions")
    assert response.get_json()["count"] == 1
    (stored,) = response.get_json()["subscriptions"]
    assert set(stored) == {"id", "label", "push_service", "created_at", "expires_at", "last_sent_at"}
    assert stored["push_service"] == "updates.push.services.mozilla.com"
    assert stored["expires_at"] is None
    age = datetime.now(UTC) - datetime.fromisoformat(stored["created_at"])
    assert timedelta(seconds=-5) < age < timedelta(seconds=60)
    assert response.headers["Cache-Control"] == "no-store"
