"""POST /push/subscribe, on both databases."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from pushapp.database import engine
from tests.conftest import signed_in
from tests.support.http import post, rows
from tests.support.subscriptions import base64url, public_point, subscription


class TestSubscribe:
    def test_stores_the_subscription(self, app: Flask, alice: FlaskClient) -> None:
        body = subscription()
        response = post(alice, body)
        assert (response.status_code, response.json) == (200, {"ok": True, "count": 1})
        (row,) = rows(app)
        assert (row.user_id, row.endpoint) == ("alice", body["endpoint"])
        assert (row.keys_p256dh, row.keys_auth) == (body["keys"]["p256dh"], body["keys"]["auth"])
        assert row.expires_at is None

    def test_counts_only_the_users_own_subscriptions(self, alice: FlaskClient, bob: FlaskClient) -> None:
        post(alice, subscription())
        assert post(alice, subscription()).json == {"ok": True, "count": 2}
        assert post(bob, subscription()).json == {"ok": True, "count": 1}

    def test_the_same_endpoint_updates_the_keys_of_its_row(self, app: Flask, alice: FlaskClient) -> None:
        body = subscription()
        post(alice, body)
        (before,) = rows(app)
        updated = subscription(endpoint=body["endpoint"], expirationTime=1_900_000_000_000)
        assert post(alice, updated).json == {"ok": True, "count": 1}
        (after,) = rows(app)
        assert after.id == before.id
        assert after.created_at == before.created_at
        assert after.updated_at > before.updated_at
        assert after.keys_auth == updated["keys"]["auth"]
        assert after.expires_at is not None

    def test_a_repeat_writes_nothing(self, app: Flask, alice: FlaskClient) -> None:
        body = subscription(expirationTime=1_900_000_000_123)
        post(alice, body)
        with app.app_context(), engine().connect() as connection:
            if connection.dialect.name == "postgresql":
                # xmax changes with a lock of the row, too; the server's log is that of other tests as well.
                query = text(
                    "SELECT xmin, xmax, ctid, p.*,"
                    " (SELECT last_value FROM push_subscriptions_id_seq) FROM push_subscriptions p"
                )
            else:
                query = text("SELECT p.*, (SELECT seq FROM sqlite_sequence) FROM push_subscriptions p")
            connection.execution_options(isolation_level="AUTOCOMMIT")
            before = connection.execute(query).all()
            for _ in range(3):
                assert post(alice, body).json == {"ok": True, "count": 1}
            assert connection.execute(query).all() == before

    def test_ignores_unknown_fields(self, alice: FlaskClient) -> None:
        body = subscription(options={"userVisibleOnly": True}, other=1e300)
        body["keys"]["more"] = ["x"]
        assert post(alice, body).status_code == 200

    @pytest.mark.parametrize(
        "encode",
        [
            base64url,
            lambda data: base64.urlsafe_b64encode(data).decode(),
            lambda data: base64.b64encode(data).decode(),
            lambda data: base64.b64encode(data).decode().rstrip("="),
        ],
    )
    def test_accepts_keys_in_every_variant_of_base64_and_stores_them_as_base64url(
        self, app: Flask, alice: FlaskClient, encode: Callable[[bytes], str]
    ) -> None:
        point, auth = public_point(), bytes([251, 255, 190] * 5 + [255])
        response = post(alice, subscription(keys={"p256dh": encode(point), "auth": encode(auth)}))
        assert response.status_code == 200
        (row,) = rows(app)
        assert (row.keys_p256dh, row.keys_auth) == (base64url(point), base64url(auth))

    @pytest.mark.parametrize("timestamp", [0, 1, 1_600_000_000_000])
    def test_an_expiration_time_in_the_past_is_unknown(self, alice: FlaskClient, timestamp: int) -> None:
        assert post(alice, subscription(expirationTime=timestamp)).status_code == 200
        (stored,) = alice.get("/push/subscriptions").get_json()["subscriptions"]
        assert stored["expires_at"] is None

    @pytest.mark.parametrize("timestamp", [4_000_000_000_001, 253_402_300_799_999])
    def test_stores_the_expiration_time_to_the_millisecond(self, alice: FlaskClient, timestamp: int) -> None:
        body = subscription(expirationTime=timestamp)
        for _ in range(2):
            assert post(alice, body).status_code == 200
        (stored,) = alice.get("/push/subscriptions").get_json()["subscriptions"]
        expires_at = datetime.fromisoformat(stored["expires_at"])
        assert expires_at == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp)

    def test_the_oldest_are_deleted_above_the_limit_of_a_user(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(PUSH_MAX_SUBSCRIPTIONS_PER_USER=3)
        alice = signed_in(app, "alice")
        bodies = [subscription() for _ in range(5)]
        assert [post(alice, body).json["count"] for body in bodies] == [1, 2, 3, 3, 3]
        assert [row.endpoint for row in rows(app)] == [body["endpoint"] for body in bodies[2:]]

    def test_a_lower_limit_is_enforced_at_the_next_request(self, make_app: Callable[..., Flask]) -> None:
        bodies = [subscription() for _ in range(3)]
        for body in bodies:
            post(signed_in(make_app(), "alice"), body)
        alice = signed_in(make_app(PUSH_MAX_SUBSCRIPTIONS_PER_USER=1), "alice")
        assert post(alice, bodies[0]).json["count"] == 1

    def test_the_longest_endpoint_of_the_longest_user_id_is_stored(self, app: Flask) -> None:
        user = signed_in(app, "\N{GRINNING FACE}" * 255)
        endpoint = "https://push.example.net/".ljust(2048, "x")
        assert post(user, subscription(endpoint=endpoint)).json == {"ok": True, "count": 1}
        assert rows(app)[0].endpoint == endpoint


class TestABrowserWithANewUser:
    def test_is_reassigned_to_the_signed_in_user(
        self, app: Flask, alice: FlaskClient, bob: FlaskClient
    ) -> None:
        body = subscription()
        post(alice, body)
        post(alice, subscription())
        assert post(bob, body).json["count"] == 1
        assert [row.user_id for row in rows(app)] == ["alice", "bob"]
        assert alice.get("/push/subscriptions").get_json()["count"] == 1
        assert post(alice, body).json["count"] == 2
        assert bob.get("/push/subscriptions").get_json()["count"] == 0

    def test_is_reassigned_although_the_user_had_other_keys_for_the_endpoint(
        self, app: Flask, alice: FlaskClient, bob: FlaskClient
    ) -> None:
        body = subscription()
        post(bob, subscription(endpoint=body["endpoint"]))
        post(alice, body)
        assert post(bob, body).json["count"] == 1
        assert [row.user_id for row in rows(app)] == ["bob"]

    def test_is_not_reassigned_by_an_endpoint_with_other_keys(
        self, app: Flask, alice: FlaskClient, bob: FlaskClient
    ) -> None:
        body = subscription()
        post(alice, body)
        post(bob, subscription(endpoint=body["endpoint"]))
        assert [row.user_id for row in rows(app)] == ["alice", "bob"]

    def test_has_both_users_if_reassignment_is_disabled(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(PUSH_BROWSER_HAS_ONE_USER=False)
        body = subscription()
        assert post(signed_in(app, "alice"), body).json["count"] == 1
        assert post(signed_in(app, "bob"), body).json["count"] == 1
        assert len(rows(app)) == 2
