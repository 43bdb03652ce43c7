"""Attacks on other users' subscriptions, and on secrets."""

import hmac
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from pushapp import create_app
from tests.conftest import SETTINGS, signed_in
from tests.support.deployment import Deployment
from tests.support.http import post, rows
from tests.support.postgresql import free_port
from tests.support.subscriptions import subscription

TOKEN = "Zm9yIGFsbCBvZiB1cyBhIGxvbmcgcmFuZG9tIHRva2Vu"


def status_with(app: Flask, cookie: str) -> int:
    client = app.test_client()
    client.set_cookie("access_token", cookie)
    return client.get("/push/subscriptions").status_code


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("access_token")
    assert cookie is not None
    return cookie.value


class TestCookie:
    def test_with_parts_of_another_users_cookie_is_rejected(
        self, app: Flask, alice: FlaskClient, bob: FlaskClient
    ) -> None:
        hers, his = cookie_of(alice).split("."), cookie_of(bob).split(".")
        for position in range(3):
            swapped = [*hers]
            swapped[position] = his[position]
            expected = 200 if swapped == hers else 401  # both may be signed in the same second
            assert status_with(app, ".".join(swapped)) == expected

    def test_with_any_character_changed_is_rejected(self, app: Flask, alice: FlaskClient) -> None:
        cookie = cookie_of(alice)
        for position in range(len(cookie) - 1):  # the last has unused bits
            other = "A" if cookie[position] != "A" else "B"
            assert status_with(app, cookie[:position] + other + cookie[position + 1 :]) == 401

    def test_signed_with_a_retired_secret_is_rejected(self, make_app: Callable[..., Flask]) -> None:
        old = cookie_of(signed_in(make_app(SECRET_KEY="old"), "alice"))
        assert status_with(make_app(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]), old) == 200
        assert status_with(make_app(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=["new"]), old) == 401

    def test_that_has_expired_is_rejected(self, make_app: Callable[..., Flask]) -> None:
        cookie = cookie_of(signed_in(make_app(), "alice"))
        assert status_with(make_app(PERMANENT_SESSION_LIFETIME=timedelta(seconds=-2)), cookie) == 401

    def test_is_never_set_by_pushapp_against_session_fixation(
        self, app: Flask, client: FlaskClient, alice: FlaskClient
    ) -> None:
        for browser in (client, alice):
            for rule in app.url_map.iter_rules():
                path = rule.rule.replace(f"<int(max={2**63 - 1}):subscription_id>", "1")
                with browser.open(
                    path, method="POST" if "POST" in (rule.methods or ()) else "GET", json={}
                ) as response:
                    assert "Set-Cookie" not in response.headers, path

    @pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
    def test_that_was_planted_does_not_survive_signing_in(self, make_app: Callable[..., Flask]) -> None:
        client = make_app(PUSH_DEMO=True).test_client()
        with client.session_transaction() as session:
            session["planted"] = "by an attacker"
        planted = cookie_of(client)
        client.post("/demo/sign-in", json={"name": "alice"})
        with client.session_transaction() as session:
            assert dict(session) == {"user_id": "alice"}
        assert status_with(client.application, planted) == 401


class TestSubscriptionOfAnotherUser:
    @pytest.fixture
    def hers(self, app: Flask, alice: FlaskClient) -> int:
        post(alice, subscription())
        return int(rows(app)[0].id)

    def test_gets_the_response_of_an_unknown_id(self, bob: FlaskClient, hers: int) -> None:
        for method in ("DELETE", "GET", "POST"):
            existing, unknown = (
                bob.open(f"/push/subscriptions/{subscription_id}", method=method)
                for subscription_id in (hers, hers + 1)
            )
            assert (existing.status_code, existing.data) == (unknown.status_code, unknown.data)
            assert dict(existing.headers) == dict(unknown.headers)

    def test_cannot_be_reassigned_by_its_endpoint_alone(
        self, app: Flask, bob: FlaskClient, hers: int
    ) -> None:
        (before,) = rows(app)
        post(bob, {"endpoint": before.endpoint}, "/push/unsubscribe")
        post(bob, subscription(endpoint=before.endpoint))
        assert rows(app)[0] == before

    def test_cannot_be_deleted_by_guessing_ids(self, app: Flask, bob: FlaskClient, hers: int) -> None:
        for subscription_id in range(max(hers - 20, 0), hers + 20):
            assert bob.delete(f"/push/subscriptions/{subscription_id}").status_code == 404
        assert len(rows(app)) == 1


class TestToken:
    def guesses(self) -> list[str]:
        parts = [TOKEN[:length] for length in range(len(TOKEN))] + [
            TOKEN[start:] for start in range(1, len(TOKEN))
        ]
        return [*parts, TOKEN + "x", TOKEN.lower(), TOKEN.upper(), TOKEN[::-1], f"{TOKEN},{TOKEN}", f'"{TOKEN}"',
                f"{TOKEN} {TOKEN}", f"[{TOKEN}]", "*", "%", "null", "undefined", "true"]  # fmt: skip

    def test_is_not_accepted_in_part_or_changed(self, make_app: Callable[..., Flask]) -> None:
        client = make_app(PUSH_API_TOKENS=[TOKEN]).test_client()
        for guess in self.guesses():
            headers = {"Authorization": f"Bearer {guess}"}
            assert client.get("/push/messages/1", headers=headers).status_code == 401, guess
        assert client.get("/push/messages/1", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 404

    def test_is_compared_with_every_configured_token(
        self, make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokens = [TOKEN, "second", "third"]
        client = make_app(PUSH_API_TOKENS=tokens).test_client()
        compared: list[bytes] = []
        compare = hmac.compare_digest

        def record(given: bytes, known: bytes) -> bool:
            compared.append(known)
            return compare(given, known)

        monkeypatch.setattr("pushapp.web.auth.hmac.compare_digest", record)
        for given in (*tokens, "wrong"):
            compared.clear()
            client.get("/push/messages/1", headers={"Authorization": f"Bearer {given}"})
            assert compared == [token.encode() for token in tokens]


URL_WITH_PASSWORD = f"postgresql://pushapp:s3cr3t-w0rd@127.0.0.1:{free_port()}/pushapp"


def assert_unavailable_without_password(output: str) -> None:
    assert "database unavailable" in output
    assert "s3cr3t-w0rd" not in output
    assert "Traceback" not in output


@pytest.mark.parametrize("arguments", [["list", "alice"], ["prune"]])
def test_no_command_prints_the_databases_password(tmp_path: Path, arguments: list[str]) -> None:
    settings = SETTINGS | {"SQLALCHEMY_DATABASE_URI": URL_WITH_PASSWORD}
    app = create_app(settings, instance_path=str(tmp_path))
    done = app.test_cli_runner().invoke(args=["push", *arguments])
    assert_unavailable_without_password(done.output)


@pytest.mark.parametrize("arguments", [["push", "worker"], ["db", "upgrade"]])
def test_no_process_prints_the_databases_password(tmp_path: Path, arguments: list[str]) -> None:
    site = Deployment(URL_WITH_PASSWORD, tmp_path)
    with subprocess.Popen(
        site.flask_command(*arguments), cwd=site.root, env=site.environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if arguments[-1] == "worker" and "database unavailable" in line:
                process.terminate()  # a worker retries until then
    assert_unavailable_without_password(output)
