"""Nobody gets in: what somebody tries who wants another's subscriptions, or our secrets."""

import hmac
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import signed_in
from tests.support.deployment import Deployment
from tests.support.postgresql import free_port
from tests.support.subscriptions import subscription
from tests.web.test_http import post, rows

TOKEN = "Zm9yIGFsbCBvZiB1cyBhIGxvbmcgcmFuZG9tIHRva2Vu"


def status_with(app: Flask, cookie: str) -> int:
    client = app.test_client()
    client.set_cookie("access_token", cookie)
    return client.get("/push/subscriptions").status_code


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("access_token")
    assert cookie is not None
    return cookie.value


class TestACookie:
    def test_with_anothers_payload_is_refused(self, app: Flask, alice: FlaskClient, bob: FlaskClient) -> None:
        hers, his = cookie_of(alice).split("."), cookie_of(bob).split(".")
        for position in range(3):
            swapped = [*hers]
            swapped[position] = his[position]
            wanted = 200 if swapped == hers else 401  # both may have been made in the same second
            assert status_with(app, ".".join(swapped)) == wanted

    def test_with_any_one_character_changed_is_refused(self, app: Flask, alice: FlaskClient) -> None:
        cookie = cookie_of(alice)
        for position in range(len(cookie) - 1):  # the last one has bits that mean nothing
            other = "A" if cookie[position] != "A" else "B"
            assert status_with(app, cookie[:position] + other + cookie[position + 1 :]) == 401

    def test_of_a_secret_that_was_given_up_is_refused(self, make_app: Callable[..., Flask]) -> None:
        old = cookie_of(signed_in(make_app(SECRET_KEY="old"), "alice"))
        assert status_with(make_app(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]), old) == 200
        assert status_with(make_app(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=["new"]), old) == 401

    def test_that_is_too_old_is_refused(self, make_app: Callable[..., Flask]) -> None:
        cookie = cookie_of(signed_in(make_app(), "alice"))
        assert status_with(make_app(PERMANENT_SESSION_LIFETIME=timedelta(seconds=-2)), cookie) == 401

    def test_is_never_set_by_us_so_that_nobody_can_be_given_one(
        self, app: Flask, client: FlaskClient, alice: FlaskClient
    ) -> None:
        for somebody in (client, alice):
            for rule in app.url_map.iter_rules():
                path = rule.rule.replace(f"<int(max={2**63 - 1}):subscription_id>", "1")
                with somebody.open(
                    path, method="POST" if "POST" in (rule.methods or ()) else "GET", json={}
                ) as answer:
                    assert "Set-Cookie" not in answer.headers, path

    @pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
    def test_that_was_planted_is_not_kept_through_signing_in(self, make_app: Callable[..., Flask]) -> None:
        client = make_app(PUSH_DEMO=True).test_client()
        with client.session_transaction() as session:
            session["planted"] = "by somebody else"
        planted = cookie_of(client)
        client.post("/demo/sign-in", json={"name": "alice"})
        with client.session_transaction() as session:
            assert dict(session) == {"user_id": "alice"}
        assert status_with(client.application, planted) == 401


class TestAnothersSubscription:
    @pytest.fixture
    def hers(self, app: Flask, alice: FlaskClient) -> int:
        post(alice, subscription())
        return int(rows(app)[0].id)

    def test_looks_like_one_that_is_not_there(self, bob: FlaskClient, hers: int) -> None:
        for method in ("DELETE", "GET", "POST"):
            there, not_there = (
                bob.open(f"/push/subscriptions/{id}", method=method) for id in (hers, hers + 1)
            )
            assert (there.status_code, there.data) == (not_there.status_code, not_there.data)
            assert dict(there.headers) == dict(not_there.headers)

    def test_cannot_be_taken_by_its_endpoint_alone(self, app: Flask, bob: FlaskClient, hers: int) -> None:
        (before,) = rows(app)
        post(bob, {"endpoint": before.endpoint}, "/push/unsubscribe")
        post(bob, subscription(endpoint=before.endpoint))
        assert rows(app)[0] == before

    def test_stays_whatever_ids_are_guessed(self, app: Flask, bob: FlaskClient, hers: int) -> None:
        for id in range(hers + 20):
            assert bob.delete(f"/push/subscriptions/{id}").status_code == 404
        assert len(rows(app)) == 1


class TestAToken:
    def guesses(self) -> list[str]:
        parts = [TOKEN[:length] for length in range(len(TOKEN))] + [TOKEN[at:] for at in range(1, len(TOKEN))]
        return [*parts, TOKEN + "x", TOKEN.lower(), TOKEN.upper(), TOKEN[::-1], f"{TOKEN},{TOKEN}", f'"{TOKEN}"',
                f"{TOKEN} {TOKEN}", f"[{TOKEN}]", "*", "%", "null", "undefined", "true"]  # fmt: skip

    def test_is_not_guessed_by_its_parts(self, make_app: Callable[..., Flask]) -> None:
        client = make_app(PUSH_API_TOKENS=[TOKEN]).test_client()
        for guess in self.guesses():
            headers = {"Authorization": f"Bearer {guess}"}
            assert client.get("/push/messages/1", headers=headers).status_code == 401, guess
        assert client.get("/push/messages/1", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 404

    def test_is_compared_whole_and_with_each_whatever_was_found(
        self, make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokens = [TOKEN, "second", "third"]
        client = make_app(PUSH_API_TOKENS=tokens).test_client()
        compared: list[bytes] = []
        compare = hmac.compare_digest

        def note(given: bytes, known: bytes) -> bool:
            compared.append(known)
            return compare(given, known)

        monkeypatch.setattr("pushapp.web.auth.hmac.compare_digest", note)
        for given in (*tokens, "wrong"):
            compared.clear()
            client.get("/push/messages/1", headers={"Authorization": f"Bearer {given}"})
            assert compared == [one.encode() for one in tokens]


@pytest.mark.parametrize(
    "command", [["push", "worker"], ["push", "list", "alice"], ["push", "prune"], ["db", "upgrade"]]
)
def test_no_command_tells_the_databases_password(tmp_path: Path, command: list[str]) -> None:
    site = Deployment(f"postgresql://pushapp:s3cr3t-w0rd@127.0.0.1:{free_port()}/pushapp", tmp_path)
    with subprocess.Popen(
        site.flask_command(*command), cwd=site.root, env=site.environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=12)
        except subprocess.TimeoutExpired:  # a worker waits for its database
            process.terminate()
            output, _ = process.communicate()
    assert "database unavailable" in output
    assert "s3cr3t-w0rd" not in output
    assert "Traceback" not in output
