"""Authentication by session cookie, protection against cross-site requests, and the order of checks."""

import json
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from itsdangerous import URLSafeTimedSerializer

from tests.conftest import SECRET, signed_in
from tests.support.http import post
from tests.support.subscriptions import subscription


class TestOrderOfChecks:
    def test_method_before_cross_site(self, client: FlaskClient) -> None:
        response = client.put("/push/subscribe", headers={"Sec-Fetch-Site": "cross-site"})
        assert response.status_code == 405
        assert set(response.headers["Allow"].split(", ")) == {"OPTIONS", "POST"}
        assert response.get_json()["code"] == 405

    def test_cross_site_before_content_type(self, client: FlaskClient) -> None:
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
        for body in ("not JSON", "x" * 20_000):
            response = client.post("/push/subscribe", data=body, content_type="application/json")
            assert response.status_code == 401

    def test_a_charset_does_not_change_the_content_type(self, alice: FlaskClient) -> None:
        response = alice.post(
            "/push/subscribe", data=json.dumps(subscription()), content_type="Application/JSON; charset=utf-8"
        )
        assert response.status_code == 200


class TestCrossSite:
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
    def test_requests_are_rejected_by_the_browsers_headers(
        self, alice: FlaskClient, headers: dict[str, str], status: int
    ) -> None:
        assert post(alice, subscription(), headers=headers).status_code == status
        body = {"endpoint": "https://push.example.net/"}
        assert post(alice, body, "/push/unsubscribe", headers=headers).status_code == status
        deleted = alice.delete("/push/subscriptions/1000000000", headers=headers)
        assert deleted.status_code == (404 if status == 200 else 403)

    def test_allowed_origins_pass_and_get_cors_headers(self, make_app: Callable[..., Flask]) -> None:
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
        invalid = post(alice, {}, headers={"Origin": origin, "Sec-Fetch-Site": "same-site"})
        assert (response.status_code, invalid.status_code) == (200, 422)
        for allowed in (preflight, response, invalid):
            assert allowed.headers["Access-Control-Allow-Origin"] == origin
            assert allowed.headers["Access-Control-Allow-Credentials"] == "true"
            assert "Origin" in allowed.headers["Vary"]
        other = post(alice, subscription(), headers={"Origin": "https://app.example.com.evil.example"})
        assert other.status_code == 403
        assert "Access-Control-Allow-Origin" not in other.headers


class TestSession:
    def cookie(self, user_id: object, *, secret: str = SECRET, salt: str = "cookie-session") -> str:
        signer = URLSafeTimedSerializer(
            secret, salt=salt, signer_kwargs={"key_derivation": "hmac", "digest_method": "sha1"}
        )
        value = signer.dumps({"user_id": user_id})
        assert isinstance(value, str)
        return value

    def status(self, app: Flask, cookie: str) -> int:
        client = app.test_client()
        client.set_cookie("access_token", cookie)
        return client.get("/push/subscriptions").status_code

    def test_any_flask_application_with_the_secret_signs_a_user_in(self, app: Flask) -> None:
        other_site = Flask("other_site")
        other_site.secret_key = SECRET
        interface = other_site.session_interface
        assert isinstance(interface, SecureCookieSessionInterface)
        signer = interface.get_signing_serializer(other_site)
        assert signer is not None
        assert self.status(app, signer.dumps({"user_id": "alice"})) == 200
        assert self.status(app, self.cookie("alice")) == 200

    def test_an_invalid_cookie_is_unauthenticated(self, app: Flask) -> None:
        good = self.cookie("alice")
        middle = len(good) // 2
        forged = good[:middle] + ("A" if good[middle] != "A" else "B") + good[middle + 1 :]
        for cookie in ("", "x", forged, self.cookie("alice", secret="another"), self.cookie("a", salt="x")):
            assert self.status(app, cookie) == 401
        assert app.test_client().get("/push/subscriptions").status_code == 401

    def test_a_session_expires(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(PERMANENT_SESSION_LIFETIME=timedelta(seconds=-2))
        assert self.status(app, self.cookie("alice")) == 401

    def test_a_fallback_secret_still_verifies_sessions(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[SECRET])
        assert self.status(app, self.cookie("alice")) == 200
        assert self.status(app, self.cookie("alice", secret="older")) == 401

    @pytest.mark.parametrize(
        "user_id",
        [None, True, False, "", 1.5, [], {}, ["alice"], "a\0", "a\n", "a\x7f", "a\x85", "x" * 256, 10**300],
    )
    def test_an_invalid_user_id_is_unauthenticated(self, app: Flask, user_id: object) -> None:
        assert self.status(app, self.cookie(user_id)) == 401

    @pytest.mark.parametrize(
        "user_id", ["a", " ", "x" * 255, "\N{GRINNING FACE}" * 255, "o'neil; --", 0, -1, 10**200]
    )
    def test_a_valid_user_id_is_accepted(self, app: Flask, user_id: object) -> None:
        assert self.status(app, self.cookie(user_id)) == 200

    def test_a_number_is_the_same_user_as_its_text(self, app: Flask) -> None:
        post(signed_in(app, 42), subscription())
        assert signed_in(app, "42").get("/push/subscriptions").get_json()["count"] == 1

    def test_the_cookie_is_never_sent_again(self, app: Flask, alice: FlaskClient) -> None:
        with alice.session_transaction() as session:
            session.permanent = True
        assert "Set-Cookie" not in alice.get("/push/subscriptions").headers

    def test_the_cookie_is_secure_and_http_only(self, app: Flask) -> None:
        assert app.config["SESSION_COOKIE_NAME"] == "access_token"
        assert app.config["SESSION_COOKIE_SECURE"] is True
        assert app.config["SESSION_COOKIE_HTTPONLY"] is True
        assert app.config["SESSION_COOKIE_SAMESITE"] == "Lax"

    def test_all_routes_require_authentication_except_the_public_ones(self, app: Flask) -> None:
        public = {
            "/healthz", "/readyz", "/openapi.json", "/push/vapid-public-key", "/push/client.js",
            "/push/service-worker.js",
        }  # fmt: skip
        by_possession, off = {"/push/renew"}, {"/push/receipts"}
        client = app.test_client()
        rules = [
            rule for rule in app.url_map.iter_rules() if not rule.endpoint.startswith("pushapp.dashboard.")
        ]
        for rule in rules:
            for method in (rule.methods or set()) - {"OPTIONS", "HEAD"}:
                path = re.sub("<.*>", "1", rule.rule)
                with client.open(path, method=method, json={}) as response:
                    status = response.status_code
                expected = (
                    404
                    if rule.rule in off
                    else 200
                    if rule.rule in public
                    else 422
                    if rule.rule in by_possession
                    else 401
                )
                assert status == expected, (method, path, status)
