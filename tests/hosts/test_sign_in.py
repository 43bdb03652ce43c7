"""Who is signed in: sessions, Flask-Login, Flask-WTF, Flask-Session, and pages that all need a login."""

import logging
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from cachelib import FileSystemCache
from flask import Flask, Response, redirect, request, session
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user
from flask_session import Session
from flask_wtf import CSRFProtect
from flask_wtf.csrf import generate_csrf

import pushapp
from pushapp import Message
from pushapp.sending.status import status
from tests.hosts.conftest import Host
from tests.support.deployment import ROOT
from tests.support.push_server import PushServer
from tests.support.subscriptions import subscription

# Flask-Login 0.6.3 on Python 3.12 and later.
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning:flask_login")
on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


class User(UserMixin):  # type: ignore[misc]  # Flask-Login has no types
    """A user whose sessions can be revoked: `get_id` is not the primary key."""

    def __init__(self, user_id: int):
        self.id = user_id

    def get_id(self) -> str:
        return f"session-{self.id}"


def signed_in_user() -> object:
    return current_user.get_id()


def add_login(app: Flask, banned: set[str]) -> LoginManager:
    login_manager = LoginManager(app)
    login_manager.user_loader(
        lambda user_id: None if user_id in banned else User(int(user_id.removeprefix("session-")))
    )

    @app.post("/sign-in/<int:user_id>")
    def sign_in(user_id: int) -> str:
        login_user(User(user_id), remember=True)
        return "Hello"

    @app.post("/sign-out")
    def sign_out() -> str:
        logout_user()
        return "Goodbye"

    return login_manager


def subscribe(client: FlaskClient, body: object = None) -> Any:
    response = client.post("/push/subscribe", json=body or subscription())
    return response.get_json()["count"] if response.status_code == 200 else response.status_code


def test_a_session_of_the_host_signs_in(host: Host) -> None:
    client = host.add_pushapp().test_client()
    assert client.get("/push/subscriptions").status_code == 401
    with client.session_transaction() as stored:
        stored["user_id"] = "alice"
    assert subscribe(client) == 1


def test_the_hosts_users_subscribe(host: Host) -> None:
    add_login(host.app, set())
    app = host.add_pushapp(user_id=signed_in_user)
    alice, bob = app.test_client(), app.test_client()
    alice.post("/sign-in/1")
    bob.post("/sign-in/2")
    body = subscription()
    assert [subscribe(alice, body), subscribe(alice, body), subscribe(bob, body)] == [1, 1, 1]
    assert alice.get("/push/subscriptions").get_json()["count"] == 0  # the browser has another user
    assert bob.get("/push/subscriptions").get_json()["count"] == 1
    bob.post("/sign-out")
    assert bob.get("/push/subscriptions").status_code == 401


@on_sqlite
def test_flask_login_signs_in_with_the_remember_cookie_alone(host: Host) -> None:
    banned: set[str] = set()
    add_login(host.app, banned)
    client = host.add_pushapp(user_id=signed_in_user).test_client()
    assert subscribe(client) == 401
    client.post("/sign-in/7")
    client.delete_cookie("session")
    assert client.get_cookie("remember_token") is not None
    assert subscribe(client) == 1
    banned.add("session-7")
    assert client.get("/push/subscriptions").status_code == 401
    banned.clear()
    assert client.get("/push/subscriptions").get_json()["count"] == 1


@on_sqlite
def test_flask_logins_key_in_the_session_is_a_setting(host: Host) -> None:
    host.app.config["PUSH_SESSION_USER_KEY"] = "_user_id"
    add_login(host.app, set())
    client = host.add_pushapp().test_client()
    client.post("/sign-in/7")
    assert subscribe(client) == 1


@on_sqlite
def test_a_message_to_an_id_of_get_id_reaches_the_user(host: Host, push_server: PushServer) -> None:
    host.app.config["PUSH_TRUSTED_PUSH_SERVICES"] = [push_server.origin]
    add_login(host.app, set())
    app = host.add_pushapp(user_id=signed_in_user)
    client = app.test_client()
    client.post("/sign-in/7")
    body = push_server.subscription()
    assert subscribe(client, body) == 1
    with app.app_context():
        pushapp.send(Message(title="Hello"), to=User(7).get_id())
        pushapp.send(Message(title="Another user's"), to="7")
    assert [push.message["notification"]["title"] for push in push_server.pushes_to(body)] == ["Hello"]


@on_sqlite
def test_flask_wtf_needs_no_token_for_pushapp_and_needs_the_hosts(host: Host) -> None:
    csrf = CSRFProtect(host.app)
    host.app.add_url_rule("/token", endpoint="token", view_func=generate_csrf)
    host.app.add_url_rule("/form", endpoint="form", view_func=lambda: "posted", methods=["POST"])
    app = host.add_pushapp(user_id=lambda: "alice")
    client = app.test_client()
    without = client.post("/push/subscribe", json=subscription())
    assert (without.status_code, without.get_json()["message"]) == (400, "The CSRF token is missing.")
    csrf.exempt(app.blueprints["pushapp"])
    assert subscribe(client) == 1
    assert client.delete("/push/subscriptions/1").status_code == 204
    assert client.post("/form").status_code == 400
    assert client.post("/form", data={"csrf_token": client.get("/token").text}).text == "posted"


def test_sessions_on_the_server_sign_in(host: Host, tmp_path: Any) -> None:
    host.app.config.update(
        SESSION_TYPE="cachelib", SESSION_CACHELIB=FileSystemCache(str(tmp_path / "sessions"))
    )
    Session(host.app)

    @host.app.post("/sign-in")
    def sign_in() -> str:
        session["user_id"] = "alice"
        return "Hello"

    client = host.add_pushapp().test_client()
    assert client.get("/push/subscriptions").status_code == 401
    client.post("/sign-in")
    assert subscribe(client) == 1
    done = host.app.test_cli_runner().invoke(args=["push", "cookie", "alice"])
    assert "does not use signed-cookie sessions" in done.output


def named_endpoints() -> set[str]:
    """Return the endpoints that the page names for a `before_request` with a login."""
    page = (ROOT / "pushapp" / "README.md").read_text()
    paragraph = page[page.index("**`login_required` on everything.**") :].split("\n- **")[0]
    return set(re.findall(r"`(pushapp\.\w+)`", paragraph))


@on_sqlite
@pytest.mark.parametrize("is_first", [True, False])
def test_a_login_for_every_page_leaves_out_the_endpoints_that_the_page_names(
    host: Host, is_first: bool
) -> None:
    app, public = host.app, named_endpoints()
    app.config["PUSH_API_TOKENS"] = ["token"]
    login_manager = add_login(app, set())
    login_manager.unauthorized_handler(lambda: redirect("/login"))

    def require_login() -> Any:
        is_public = request.endpoint in public or request.endpoint == "sign_in"
        return None if is_public else login_required(lambda: None)()

    if is_first:
        app.before_request(require_login)
    host.add_pushapp(user_id=signed_in_user)
    if not is_first:
        app.before_request(require_login)
    client = app.test_client()
    for path in ("client.js", "service-worker.js", "vapid-public-key"):
        with client.get(f"/push/{path}") as response:
            assert response.status_code == 200
    token = {"Authorization": "Bearer token"}
    assert client.get("/push/messages/1", headers=token).status_code == 404
    assert client.get("/push/messages/1").status_code == 401
    message = {"to": {"user_id": "carol"}, "notification": {"title": "x"}}
    assert client.post("/push/messages", json=message, headers=token).status_code == 202
    assert client.get("/").status_code == 302
    assert client.get("/push/subscriptions").status_code == 302
    client.post("/sign-in/7")
    assert subscribe(client) == 1


@on_sqlite
def test_the_hosts_unauthorized_handler_does_not_replace_pushapps(host: Host) -> None:
    add_login(host.app, set()).unauthorized_handler(lambda: redirect("/login"))
    response = host.add_pushapp(user_id=signed_in_user).test_client().post("/push/subscribe", json={})
    assert (response.status_code, response.get_json()["code"]) == (401, 401)


def test_a_user_with_a_uuid_subscribes_and_gets_messages(host: Host, push_server: PushServer) -> None:
    user_id = UUID("C0FFEE00-1234-4abc-8def-0123456789AB")
    host.app.config["PUSH_TRUSTED_PUSH_SERVICES"] = [push_server.origin]
    app = host.add_pushapp(user_id=lambda: user_id)
    assert subscribe(app.test_client(), push_server.subscription()) == 1
    with app.app_context():
        to_objects = pushapp.send(Message(title="Hello"), to=user_id)
        to_strings = pushapp.send(Message(title="Hello"), to="c0ffee00-1234-4abc-8def-0123456789ab")
        assert [status(each).recipients for each in (to_objects, to_strings)] == [1, 1]


@on_sqlite
def test_a_uuid_in_the_session_signs_in(host: Host) -> None:
    app = host.add_pushapp()
    client = app.test_client()
    with client.session_transaction() as stored:
        stored["user_id"] = UUID(int=7)
    assert subscribe(client) == 1
    assert "1 subscription." in app.test_cli_runner().invoke(args=["push", "list", str(UUID(int=7))]).output


@on_sqlite
@pytest.mark.parametrize("no_user", [None, False])
def test_no_user_is_a_401_that_does_not_name_a_cookie(host: Host, no_user: object) -> None:
    response = host.add_pushapp(user_id=lambda: no_user).test_client().get("/push/subscriptions")
    assert (response.status_code, response.get_json()["message"]) == (
        401,
        "Authentication required: no user is signed in.",
    )


@on_sqlite
@pytest.mark.parametrize(
    "invalid", ["", "s3cr3t" * 50, "s3cr3t\0", True, 10**300, 1.5, ["s3cr3t"], b"s3cr3t", "s3cr3t\ud800"]
)
def test_an_invalid_id_is_the_operators_error(
    host: Host, invalid: object, caplog: pytest.LogCaptureFixture
) -> None:
    response = host.add_pushapp(user_id=lambda: invalid).test_client().get("/push/subscriptions")
    assert (response.status_code, response.get_json()["code"]) == (500, 500)
    assert "user_id function returned an invalid id" in response.get_json()["message"]
    ((level, line),) = [record[1:] for record in caplog.record_tuples if record[0] == "pushapp.web.auth"]
    assert level == logging.ERROR
    assert line.startswith(f"the user_id function returned an invalid {type(invalid).__name__}: ")
    assert len(line.splitlines()) == 1
    assert "s3cr3t" not in caplog.text + response.text


@on_sqlite
def test_responses_of_the_host_pass_through_its_own_hooks(host: Host, make_host: Callable[..., Host]) -> None:
    @host.app.after_request
    def add_header(response: Response) -> Response:
        response.headers["X-Host"] = "yes"
        return response

    client = host.add_pushapp(user_id=lambda: 7).test_client()
    response = client.post("/push/subscribe", json=subscription())
    assert response.headers["X-Host"] == "yes"
    assert response.headers["Cache-Control"] == "no-store"
    assert client.get("/push/nothing").headers["X-Host"] == "yes"
