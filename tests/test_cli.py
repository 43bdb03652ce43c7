"""`flask push cookie`, `list`, `vapid-keys` and `prune`."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient

from pushapp import create_app
from pushapp.database import engine
from pushapp.extensions import db
from tests.conftest import SETTINGS, signed_in
from tests.support.http import expire, post, rows
from tests.support.subscriptions import subscription


def push(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["push", *arguments])


def test_cookie_signs_a_user_in(app: Flask, client: FlaskClient) -> None:
    done = push(app, "cookie", "alice")
    assert done.exit_code == 0
    name, _, value = done.stdout.strip().partition("=")
    assert name == "access_token"
    post(signed_in(app, "alice"), subscription())
    client.set_cookie(name, value)
    response = client.get("/push/subscriptions")
    assert (response.status_code, response.get_json()["count"]) == (200, 1)


def test_cookie_uses_the_configured_session(make_app: Callable[..., Flask]) -> None:
    app = make_app(PUSH_SESSION_USER_KEY="_user_id", SESSION_COOKIE_NAME="site")
    name, _, value = push(app, "cookie", "7").stdout.strip().partition("=")
    assert name == "site"
    client = app.test_client()
    client.set_cookie(name, value)
    assert client.get("/push/subscriptions").status_code == 200


def test_list_prints_a_users_subscriptions_without_secrets(app: Flask, alice: FlaskClient) -> None:
    bodies = [subscription(), subscription(expirationTime=1_900_000_000_000)]
    for body in bodies:
        post(alice, body)
    done = push(app, "list", "alice")
    first, second = done.stdout.splitlines()
    assert first.split("\t")[2] == "updates.push.services.mozilla.com"
    assert first.endswith("\t-")
    assert "2030-03-17" in second
    assert "alice has 2 subscriptions." in done.stderr
    assert bodies[0]["endpoint"] not in done.output
    assert "bob has 0 subscriptions." in push(app, "list", "bob").stderr


def test_vapid_keys_prints_settings_for_the_environment(
    app: Flask, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    setting, comment = push(app, "vapid-keys").stdout.splitlines()
    name, _, private = setting.partition("=")
    public = comment.split()[-1]
    assert len(base64.urlsafe_b64decode(private + "=")) == 32
    monkeypatch.setenv(name, private)
    settings = {key: value for key, value in SETTINGS.items() if not key.startswith("PUSH_VAPID")}
    started = create_app(settings | {"SQLALCHEMY_DATABASE_URI": "sqlite://"}, instance_path=str(tmp_path))
    assert started.test_client().get("/push/vapid-public-key").json == {"publicKey": public}
    with started.app_context():
        engine().dispose()
    assert push(app, "vapid-keys").stdout != setting


def test_prune_deletes_expired_subscriptions(app: Flask, alice: FlaskClient) -> None:
    now = datetime.now(UTC)
    soon = int((now + timedelta(hours=1)).timestamp() * 1000)
    for timestamp in (soon, soon, soon, None):
        post(alice, subscription(expirationTime=timestamp))
    expire(app, 2)
    assert "Deleted 2 expired subscriptions." in push(app, "prune").stdout
    assert "Deleted 0 expired subscriptions." in push(app, "prune").stdout
    assert len(rows(app)) == 2


def test_prune_deletes_more_than_one_batch(
    app: Flask, alice: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with app.app_context(), engine().begin() as connection:
        table = db.metadata.tables["push_subscriptions"]
        row = {"keys_p256dh": "x", "keys_auth": "x", "expires_at": datetime(2020, 1, 1, tzinfo=UTC)}
        many = [row | {"user_id": "alice", "endpoint": f"https://push.example/{n}"} for n in range(2_500)]
        connection.execute(table.insert(), many)
    assert "Deleted 2500 expired subscriptions." in push(app, "prune").stdout


@pytest.mark.parametrize("command", ["cookie", "list", "vapid-keys", "prune"])
def test_every_command_has_a_help_text(app: Flask, command: str) -> None:
    help_text = push(app, command, "--help").output
    assert len(help_text.splitlines()) > 4
    assert command in push(app, "--help").output


def test_an_unavailable_database_is_a_one_line_error(tmp_path: object) -> None:
    settings = SETTINGS | {"SQLALCHEMY_DATABASE_URI": "postgresql://user@127.0.0.1:1/name"}
    app = create_app(settings, instance_path=str(tmp_path))
    for arguments in (["list", "alice"], ["prune"]):
        done = push(app, *arguments)
        assert done.exit_code != 0
        assert done.stderr.startswith("Error: database unavailable"), done.exception
        assert len(done.stderr.splitlines()) == 1
