"""The contract over HTTP, on both databases."""

import base64
import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from itsdangerous import URLSafeTimedSerializer
from sqlalchemy import text

from pushapp.extensions import db
from tests.conftest import SECRET, signed_in
from tests.support.subscriptions import base64url, public_point, subscription


def rows(app: Flask) -> list[Any]:
    with app.app_context(), db.engine.connect() as connection:
        return list(connection.execute(text("SELECT * FROM push_subscriptions ORDER BY id")))


def post(client: FlaskClient, body: object, path: str = "/push/subscribe", **more: Any) -> Any:
    return client.post(path, json=body, **more)


class TestSubscribing:
    def test_keeps_what_the_browser_says(self, app: Flask, alice: FlaskClient) -> None:
        body = subscription()
        response = post(alice, body)
        assert (response.status_code, response.json) == (200, {"ok": True, "count": 1})
        (row,) = rows(app)
        assert (row.user_id, row.endpoint) == ("alice", body["endpoint"])
        assert (row.keys_p256dh, row.keys_auth) == (body["keys"]["p256dh"], body["keys"]["auth"])
        assert row.expires_at is None

    def test_counts_only_the_users_own(self, alice: FlaskClient, bob: FlaskClient) -> None:
        post(alice, subscription())
        assert post(alice, subscription()).json == {"ok": True, "count": 2}
        assert post(bob, subscription()).json == {"ok": True, "count": 1}

    def test_the_same_endpoint_again_is_the_same_row_with_its_newest_keys(
        self, app: Flask, alice: FlaskClient
    ) -> None:
        body = subscription()
        post(alice, body)
        (before,) = rows(app)
        renewed = subscription(endpoint=body["endpoint"], expirationTime=1_900_000_000_000)
        assert post(alice, renewed).json == {"ok": True, "count": 1}
        (after,) = rows(app)
        assert after.id == before.id
        assert after.created_at == before.created_at
        assert after.updated_at > before.updated_at
        assert after.keys_auth == renewed["keys"]["auth"]
        assert after.expires_at is not None

    def test_a_repeat_writes_nothing(self, app: Flask, alice: FlaskClient) -> None:
        body = subscription(expirationTime=1_900_000_000_123)
        post(alice, body)
        with app.app_context(), db.engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                watch = text(
                    "SELECT xmin, ctid, p.*, pg_current_snapshot(), pg_current_wal_insert_lsn(),"
                    " (SELECT last_value FROM push_subscriptions_id_seq) FROM push_subscriptions p"
                )
            else:
                watch = text("SELECT p.*, (SELECT seq FROM sqlite_sequence) FROM push_subscriptions p")
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text("CHECKPOINT" if connection.dialect.name == "postgresql" else "SELECT 1"))
            before = connection.execute(watch).all()
            for _ in range(3):
                assert post(alice, body).json == {"ok": True, "count": 1}
            assert connection.execute(watch).all() == before

    def test_ignores_members_that_browsers_add(self, alice: FlaskClient) -> None:
        body = subscription(options={"userVisibleOnly": True}, other=1e300)
        body["keys"]["more"] = ["x"]
        assert post(alice, body).status_code == 200

    @pytest.mark.parametrize(
        "spell",
        [
            base64url,
            lambda data: base64.urlsafe_b64encode(data).decode(),
            lambda data: base64.b64encode(data).decode(),
            lambda data: base64.b64encode(data).decode().rstrip("="),
        ],
    )
    def test_takes_keys_in_every_spelling_of_base64_and_keeps_one(
        self, app: Flask, alice: FlaskClient, spell: Callable[[bytes], str]
    ) -> None:
        point, auth = public_point(), bytes([251, 255, 190] * 5 + [255])
        response = post(alice, subscription(keys={"p256dh": spell(point), "auth": spell(auth)}))
        assert response.status_code == 200
        (row,) = rows(app)
        assert (row.keys_p256dh, row.keys_auth) == (base64url(point), base64url(auth))

    @pytest.mark.parametrize("moment", [0, 1, 253_402_300_799_999])
    def test_keeps_the_expiration_time_to_the_millisecond(self, alice: FlaskClient, moment: int) -> None:
        body = subscription(expirationTime=moment)
        for _ in range(2):
            assert post(alice, body).status_code == 200
        (kept,) = alice.get("/push/subscriptions").json["subscriptions"]
        expires_at = datetime.fromisoformat(kept["expires_at"])
        assert expires_at == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment)

    def test_the_oldest_give_way_when_a_user_has_too_many(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(PUSH_MAX_SUBSCRIPTIONS_PER_USER=3)
        alice = signed_in(app, "alice")
        bodies = [subscription() for _ in range(5)]
        assert [post(alice, body).json["count"] for body in bodies] == [1, 2, 3, 3, 3]
        assert [row.endpoint for row in rows(app)] == [body["endpoint"] for body in bodies[2:]]

    def test_a_lower_limit_holds_from_the_next_post_on(self, make_app: Callable[..., Flask]) -> None:
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


class TestABrowserThatChangesHands:
    def test_moves_to_the_user_who_is_signed_in_now(
        self, app: Flask, alice: FlaskClient, bob: FlaskClient
    ) -> None:
        body = subscription()
        post(alice, body)
        post(alice, subscription())
        assert post(bob, body).json["count"] == 1
        assert [row.user_id for row in rows(app)] == ["alice", "bob"]
        assert alice.get("/push/subscriptions").json["count"] == 1
        assert post(alice, body).json["count"] == 2
        assert bob.get("/push/subscriptions").json["count"] == 0

    def test_moves_although_its_new_user_had_other_keys_there(
        self, app: Flask, alice: FlaskClient, bob: FlaskClient
    ) -> None:
        body = subscription()
        post(bob, subscription(endpoint=body["endpoint"]))
        post(alice, body)
        assert post(bob, body).json["count"] == 1
        assert [row.user_id for row in rows(app)] == ["bob"]

    def test_the_same_endpoint_with_other_keys_proves_nothing(
        self, app: Flask, alice: FlaskClient, bob: FlaskClient
    ) -> None:
        body = subscription()
        post(alice, body)
        post(bob, subscription(endpoint=body["endpoint"]))
        assert [row.user_id for row in rows(app)] == ["alice", "bob"]

    def test_stays_with_both_when_moving_is_turned_off(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(PUSH_BROWSER_HAS_ONE_USER=False)
        body = subscription()
        assert post(signed_in(app, "alice"), body).json["count"] == 1
        assert post(signed_in(app, "bob"), body).json["count"] == 1
        assert len(rows(app)) == 2


class TestForgetting:
    def test_unsubscribing_forgets_the_endpoint(self, alice: FlaskClient) -> None:
        body = subscription()
        post(alice, body)
        post(alice, subscription())
        for _ in range(2):
            response = post(alice, {"endpoint": body["endpoint"]}, "/push/unsubscribe")
            assert (response.status_code, response.json) == (200, {"ok": True, "count": 1})

    def test_unsubscribing_leaves_other_users_alone(self, alice: FlaskClient, bob: FlaskClient) -> None:
        body = subscription()
        post(alice, body)
        assert post(bob, {"endpoint": body["endpoint"]}, "/push/unsubscribe").json["count"] == 0
        assert alice.get("/push/subscriptions").json["count"] == 1

    @pytest.mark.parametrize("endpoint", ["", "x", "x" * 2_048, "https://127.0.0.1/"])
    def test_unsubscribing_what_was_never_kept_changes_nothing(
        self, alice: FlaskClient, endpoint: str
    ) -> None:
        response = post(alice, {"endpoint": endpoint}, "/push/unsubscribe")
        assert (response.status_code, response.json) == (200, {"ok": True, "count": 0})

    @pytest.mark.parametrize("endpoint", ["\0", "\ud800", "\N{GRINNING FACE}", "x" * 2_049, None, 1, []])
    def test_unsubscribing_what_can_be_no_endpoint_is_refused(
        self, alice: FlaskClient, endpoint: object
    ) -> None:
        response = post(alice, {"endpoint": endpoint}, "/push/unsubscribe")
        assert response.status_code == 422
        assert "endpoint" in response.json["errors"]["json"]

    def test_deleting_takes_only_ones_own(self, alice: FlaskClient, bob: FlaskClient) -> None:
        post(alice, subscription())
        (kept,) = alice.get("/push/subscriptions").json["subscriptions"]
        foreign = bob.delete(f"/push/subscriptions/{kept['id']}")
        unknown = bob.delete(f"/push/subscriptions/{kept['id'] + 1}")
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.data == unknown.data
        response = alice.delete(f"/push/subscriptions/{kept['id']}")
        assert (response.status_code, response.data) == (204, b"")
        assert alice.delete(f"/push/subscriptions/{kept['id']}").status_code == 404

    @pytest.mark.parametrize("id", ["0", "-1", "x", "9223372036854775807", "9223372036854775808", "9" * 400])
    def test_ids_that_cannot_be_are_not_found(self, alice: FlaskClient, id: str) -> None:
        assert alice.delete(f"/push/subscriptions/{id}").status_code == 404


def test_the_list_shows_neither_keys_nor_endpoints(alice: FlaskClient) -> None:
    body = subscription()
    post(alice, body)
    response = alice.get("/push/subscriptions")
    assert response.json["count"] == 1
    (kept,) = response.json["subscriptions"]
    assert set(kept) == {"id", "push_service", "created_at", "expires_at"}
    assert kept["push_service"] == "updates.push.services.mozilla.com"
    assert kept["expires_at"] is None
    age = datetime.now(UTC) - datetime.fromisoformat(kept["created_at"])
    assert timedelta(seconds=-5) < age < timedelta(seconds=60)
    assert response.headers["Cache-Control"] == "no-store"


class TestTheOrderOfJudgement:
    def test_method_before_site(self, client: FlaskClient) -> None:
        response = client.put("/push/subscribe", headers={"Sec-Fetch-Site": "cross-site"})
        assert response.status_code == 405
        assert set(response.headers["Allow"].split(", ")) == {"OPTIONS", "POST"}
        assert response.json["code"] == 405

    def test_site_before_content_type(self, client: FlaskClient) -> None:
        response = client.post("/push/subscribe", data="x", headers={"Sec-Fetch-Site": "cross-site"})
        assert response.status_code == 403

    @pytest.mark.parametrize("path", ["/push/subscribe", "/push/unsubscribe"])
    @pytest.mark.parametrize(
        "content_type",
        [None, "text/plain", "application/x-www-form-urlencoded", "application/x+json", "application/jsonp"],
    )
    def test_content_type_before_session(
        self, client: FlaskClient, path: str, content_type: str | None
    ) -> None:
        assert client.post(path, data="{}", content_type=content_type).status_code == 415

    def test_session_before_body(self, client: FlaskClient) -> None:
        for body in ("no JSON", "x" * 20_000):
            response = client.post("/push/subscribe", data=body, content_type="application/json")
            assert response.status_code == 401

    def test_a_charset_does_not_change_the_content_type(self, alice: FlaskClient) -> None:
        response = alice.post(
            "/push/subscribe", data=json.dumps(subscription()), content_type="Application/JSON; charset=utf-8"
        )
        assert response.status_code == 200


class TestOurOwnSite:
    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 200),
            ({"Sec-Fetch-Site": "same-origin"}, 200),
            ({"Sec-Fetch-Site": "none"}, 200),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "nonsense"}, 403),
            ({"Sec-Fetch-Site": "same-origin", "Origin": "https://other.example"}, 200),
            ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
            ({"Origin": "http://localhost"}, 200),
            ({"Origin": "https://LOCALHOST"}, 200),
            ({"Origin": "http://localhost:8080"}, 403),
            ({"Origin": "https://other.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": ""}, 403),
        ],
    )
    def test_is_told_by_the_browsers_headers(
        self, alice: FlaskClient, headers: dict[str, str], status: int
    ) -> None:
        assert post(alice, subscription(), headers=headers).status_code == status
        body = {"endpoint": "https://push.example.net/"}
        assert post(alice, body, "/push/unsubscribe", headers=headers).status_code == status
        deleted = alice.delete("/push/subscriptions/1000000000", headers=headers)
        assert deleted.status_code == (404 if status == 200 else 403)

    def test_named_origins_are_let_through_with_cors_answers_to_match(
        self, make_app: Callable[..., Flask]
    ) -> None:
        origin = "https://app.example.com"
        alice = signed_in(make_app(PUSH_ALLOWED_ORIGINS=[origin]), "alice")
        preflight = alice.options(
            "/push/subscribe",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Headers"] == "content-type"
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        response = post(alice, subscription(), headers={"Origin": origin, "Sec-Fetch-Site": "same-site"})
        refused = post(alice, {}, headers={"Origin": origin, "Sec-Fetch-Site": "same-site"})
        assert (response.status_code, refused.status_code) == (200, 422)
        for answer in (preflight, response, refused):
            assert answer.headers["Access-Control-Allow-Origin"] == origin
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"
            assert "Origin" in answer.headers["Vary"]
        other = post(alice, subscription(), headers={"Origin": "https://app.example.com.evil.example"})
        assert other.status_code == 403
        assert "Access-Control-Allow-Origin" not in other.headers


class TestTheSession:
    def cookie(self, member: object, *, secret: str = SECRET, salt: str = "cookie-session") -> str:
        signer = URLSafeTimedSerializer(
            secret, salt=salt, signer_kwargs={"key_derivation": "hmac", "digest_method": "sha1"}
        )
        value = signer.dumps({"user_id": member})
        assert isinstance(value, str)
        return value

    def status(self, app: Flask, cookie: str) -> int:
        client = app.test_client()
        client.set_cookie("access_token", cookie)
        return client.get("/push/subscriptions").status_code

    def test_any_flask_application_with_the_secret_signs_a_user_in(self, app: Flask) -> None:
        other_site = Flask("other_site")
        other_site.secret_key = SECRET
        signer = other_site.session_interface.get_signing_serializer(other_site)  # type: ignore[attr-defined]
        assert self.status(app, signer.dumps({"user_id": "alice"})) == 200
        assert self.status(app, self.cookie("alice")) == 200

    def test_nobody_is_signed_in_by_a_cookie_that_is_wrong(self, app: Flask) -> None:
        good = self.cookie("alice")
        middle = len(good) // 2
        forged = good[:middle] + ("A" if good[middle] != "A" else "B") + good[middle + 1 :]
        for cookie in ("", "x", forged, self.cookie("alice", secret="another"), self.cookie("a", salt="x")):
            assert self.status(app, cookie) == 401
        assert app.test_client().get("/push/subscriptions").status_code == 401

    def test_a_session_expires(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(PERMANENT_SESSION_LIFETIME=timedelta(seconds=-2))
        assert self.status(app, self.cookie("alice")) == 401

    def test_an_older_secret_still_opens_sessions(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[SECRET])
        assert self.status(app, self.cookie("alice")) == 200
        assert self.status(app, self.cookie("alice", secret="older")) == 401

    @pytest.mark.parametrize(
        "member",
        [None, True, False, "", 1.5, [], {}, ["alice"], "a\0", "a\n", "a\x7f", "a\x85", "x" * 256, 10**300],
    )
    def test_no_user_has_such_an_id(self, app: Flask, member: object) -> None:
        assert self.status(app, self.cookie(member)) == 401

    @pytest.mark.parametrize(
        "member", ["a", " ", "x" * 255, "\N{GRINNING FACE}" * 255, "o'neil; --", 0, -1, 10**200]
    )
    def test_a_user_may_have_such_an_id(self, app: Flask, member: object) -> None:
        assert self.status(app, self.cookie(member)) == 200

    def test_a_number_is_the_same_user_as_its_text(self, app: Flask) -> None:
        post(signed_in(app, 42), subscription())
        assert signed_in(app, "42").get("/push/subscriptions").json["count"] == 1

    def test_the_cookie_is_never_set_anew(self, app: Flask, alice: FlaskClient) -> None:
        with alice.session_transaction() as session:
            session.permanent = True
        assert "Set-Cookie" not in alice.get("/push/subscriptions").headers

    def test_the_cookie_is_for_https_and_not_for_scripts(self, app: Flask) -> None:
        assert app.config["SESSION_COOKIE_NAME"] == "access_token"
        assert app.config["SESSION_COOKIE_SECURE"] is True
        assert app.config["SESSION_COOKIE_HTTPONLY"] is True
        assert app.config["SESSION_COOKIE_SAMESITE"] == "Lax"

    def test_every_route_asks_who_is_there_but_for_a_short_list(self, app: Flask) -> None:
        public = {
            "/healthz", "/readyz", "/openapi.json", "/push/vapid-public-key", "/push/client.js",
            "/push/service-worker.js",
        }  # fmt: skip
        client = app.test_client()
        for rule in app.url_map.iter_rules():
            for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
                path = re.sub("<.*>", "1", rule.rule)
                with client.open(path, method=method, json={}) as response:
                    status = response.status_code
                assert (status == 200) if rule.rule in public else (status == 401), (method, path, status)


class TestTheBody:
    def send(self, client: FlaskClient, data: str | bytes, **more: Any) -> Any:
        return client.post("/push/subscribe", data=data, content_type="application/json", **more)

    @pytest.mark.parametrize(
        "data",
        [
            "", " ", "{", "x", "'x'", '{"a": NaN}', '{"a": Infinity}', '{"a": 1,}', '{"a": "\n"}', "[" * 8_000,
            '{"a":' * 3_000, b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b'"\xff"', "{} {}",
        ],
    )  # fmt: skip
    def test_is_not_json(self, alice: FlaskClient, data: str | bytes) -> None:
        response = self.send(alice, data)
        assert response.status_code == 400
        assert response.json == {
            "code": 400,
            "status": "Bad Request",
            "message": "The body is not valid JSON.",
        }

    @pytest.mark.parametrize("data", ["null", "1", '"x"', "[]", "[{}]", "true"])
    def test_is_json_but_no_object(self, alice: FlaskClient, data: str) -> None:
        assert self.send(alice, data).status_code == 422

    def test_may_have_16_kibibytes_and_no_more(self, alice: FlaskClient) -> None:
        body = json.dumps(subscription())
        assert self.send(alice, body.ljust(16_384)).status_code == 200
        assert self.send(alice, body.ljust(16_385)).status_code == 413
        assert self.send(alice, body.ljust(1_000_000)).status_code == 413

    def test_may_have_no_more_when_it_comes_in_chunks(self, alice: FlaskClient) -> None:
        body = json.dumps(subscription())
        for length, status in ((16_384, 200), (16_385, 413), (1_000_000, 413)):
            with alice.session_transaction():
                pass
            response = self.send(
                alice,
                body.ljust(length),
                environ_overrides={"CONTENT_LENGTH": "", "wsgi.input_terminated": True},
            )
            assert response.status_code == status

    @pytest.mark.parametrize("member", ["endpoint", "keys"])
    def test_misses_a_member(self, alice: FlaskClient, member: str) -> None:
        body = subscription()
        del body[member]
        self.assert_names(alice, body, member)

    @pytest.mark.parametrize("value", [None, 1, True, [], {}, ""])
    @pytest.mark.parametrize("member", ["endpoint", "keys"])
    def test_has_a_member_of_another_kind(self, alice: FlaskClient, member: str, value: object) -> None:
        self.assert_names(alice, subscription(**{member: value}), member)

    @pytest.mark.parametrize("member", ["p256dh", "auth"])
    @pytest.mark.parametrize(
        "value",
        [None, 1, [], "", "=", "A", "!" * 22, "A" * 21, "A" * 23, "é" * 22, "\ud800", "\0", base64url(bytes(17)),
         base64url(bytes(65)), base64url(b"\4" + bytes(64)), base64url(b"\2" + bytes(32)), "AAAA AAAAAAAAAAAAAAAAAA",
         base64url(bytes(16)) + "="],
    )  # fmt: skip
    def test_has_a_key_that_is_none(self, alice: FlaskClient, member: str, value: object) -> None:
        body = subscription()
        body["keys"][member] = value
        errors = self.assert_names(alice, body, "keys")
        assert member in errors["keys"]

    def test_has_a_point_in_its_compressed_form(self, alice: FlaskClient) -> None:
        point = public_point()
        body = subscription()
        body["keys"]["p256dh"] = base64url(bytes([2 + point[64] % 2]) + point[1:33])
        self.assert_names(alice, body, "keys")

    @pytest.mark.parametrize(
        "value",
        [-1, 1.5, True, "1", "", [], {}, 253_402_300_800_000, 2**63, 10**400, 1e300, float("inf"), "١"],
    )
    def test_has_a_time_that_is_none(self, alice: FlaskClient, value: object) -> None:
        data = json.dumps(subscription(expirationTime=value)).replace("Infinity", "1e999")
        response = self.send(alice, data)
        assert response.status_code == 422
        assert "expirationTime" in response.json["errors"]["json"]

    def test_has_a_number_too_long_to_be_read(self, alice: FlaskClient) -> None:
        body = json.dumps(subscription(expirationTime=0, more=0))
        digits = "9" * 5_000
        assert self.send(alice, body.replace('"more": 0', f'"more": {digits}')).status_code == 200
        response = self.send(alice, body.replace('"expirationTime": 0', f'"expirationTime": {digits}'))
        assert "expirationTime" in response.json["errors"]["json"]

    def assert_names(self, client: FlaskClient, body: object, member: str) -> Any:
        response = post(client, body)
        assert response.status_code == 422
        assert (response.json["code"], response.json["status"]) == (422, "Unprocessable Entity")
        assert member in response.json["errors"]["json"]
        return response.json["errors"]["json"]


class TestWhatAnybodyMayGet:
    def test_the_public_key(self, client: FlaskClient) -> None:
        response = client.get("/push/vapid-public-key")
        assert list(response.json) == ["publicKey"]
        assert len(response.json["publicKey"]) == 87
        assert response.json["publicKey"].startswith("B")

    def test_the_browsers_side(self, client: FlaskClient) -> None:
        module = client.get("/push/client.js")
        worker = client.get("/push/service-worker.js")
        for response in (module, worker):
            assert response.status_code == 200
            assert response.mimetype == "text/javascript"
            assert response.headers["Cache-Control"] == "no-cache"
            response.close()
        assert "Service-Worker-Allowed" not in worker.headers

    def test_health(self, client: FlaskClient) -> None:
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200

    def test_the_description_of_every_route(self, app: Flask, client: FlaskClient) -> None:
        document = client.get("/openapi.json").json
        assert document["openapi"].startswith("3.1")
        routes = {re.sub("<.*:(.*)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules()}
        assert set(document["paths"]) == routes - {"/openapi.json"}


def test_every_error_has_one_shape(client: FlaskClient) -> None:
    for path in ("/", "/push/", "/push/nothing", "/push/subscriptions/x"):
        response = client.get(path)
        assert response.status_code in (404, 405)
        assert response.json["code"] == response.status_code
        assert set(response.json) == {"code", "status", "message"}


def test_a_mistake_of_ours_shows_no_stack(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> str:
        raise RuntimeError("inside")

    app.add_url_rule("/broken", view_func=broken)
    response = app.test_client().get("/broken")
    assert response.json["code"] == 500
    assert b"inside" not in response.data
    assert "inside" in caplog.text


def test_a_statement_that_fails_shows_no_sql_and_logs_no_values(
    app: Flask, alice: FlaskClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    body = subscription()

    def broken(*arguments: object, **more: object) -> None:
        with db.engine.begin() as connection:
            connection.execute(
                text("INSERT INTO push_subscriptions (endpoint) VALUES (:endpoint)"),
                {"endpoint": body["endpoint"]},
            )

    monkeypatch.setattr("pushapp.subscriptions.save", broken)
    response = post(alice, body)
    assert response.status_code == 500
    assert b"INSERT" not in response.data
    assert "IntegrityError" in caplog.text
    assert "VALUES (:endpoint)" not in response.text


def test_no_request_logs_a_secret(alice: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = subscription()
    post(alice, body)
    post(alice, subscription(endpoint=body["endpoint"], keys=None))
    for secret in (body["endpoint"], body["keys"]["p256dh"], body["keys"]["auth"]):
        assert secret not in caplog.text
