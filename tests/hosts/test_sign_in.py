"""Who is signed in: sessions, Flask-Login, Flask-WTF, Flask-Session, and pages that all need a login."""

from pathlib import Path
from typing import Any

import pytest
from cachelib import FileSystemCache
from flask import Flask, redirect, request, session
from flask_login import LoginManager, UserMixin, current_user, login_user
from flask_session import Session
from flask_wtf import CSRFProtect

from tests.hosts.conftest import Host
from tests.support.subscriptions import subscription


class User(UserMixin):
    def __init__(self, user_id: str):
        self.id = user_id


def add_login(app: Flask, banned: set[str]) -> None:
    login_manager = LoginManager(app)
    login_manager.user_loader(lambda user_id: None if user_id in banned else User(user_id))

    @app.post("/sign-in/<user_id>")
    def sign_in(user_id: str) -> str:
        login_user(User(user_id), remember=True)
        return "Hello"


def test_a_session_of_the_host_signs_in(host: Host) -> None:
    client = host.add_pushapp().test_client()
    assert client.get("/push/subscriptions").status_code == 401
    with client.session_transaction() as stored:
        stored["user_id"] = "alice"
    assert client.post("/push/subscribe", json=subscription()).json == {"ok": True, "count": 1}


def test_flask_login_signs_in_with_the_remember_cookie_alone(host: Host) -> None:
    banned: set[str] = set()
    add_login(host.app, banned)
    app = host.add_pushapp(user_id=lambda: current_user.get_id())  # noqa: PLW0108  # a proxy, per request
    client = app.test_client()
    assert client.post("/push/subscribe", json=subscription()).status_code == 401
    client.post("/sign-in/7")
    client.delete_cookie("session")
    assert client.post("/push/subscribe", json=subscription()).json == {"ok": True, "count": 1}
    banned.add("7")
    assert client.get("/push/subscriptions").status_code == 401


def test_flask_wtf_needs_no_token_for_pushapp_and_one_for_the_host(host: Host) -> None:
    csrf = CSRFProtect(host.app)
    host.app.add_url_rule("/form", endpoint="form", view_func=lambda: "posted", methods=["POST"])
    app = host.add_pushapp(user_id=lambda: "alice")
    csrf.exempt(app.blueprints["pushapp"])
    client = app.test_client()
    assert client.post("/push/subscribe", json=subscription()).status_code == 200
    assert client.post("/form").status_code == 400


def test_sessions_on_the_server_sign_in(host: Host, tmp_path: Path) -> None:
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
    assert client.get("/push/subscriptions").status_code == 200
    done = host.app.test_cli_runner().invoke(args=["push", "cookie", "alice"])
    assert "does not use signed-cookie sessions" in done.stderr


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_login_for_every_page_leaves_out_what_the_page_names(host: Host) -> None:
    page = (Path(__file__).parents[2] / "pushapp" / "README.md").read_text()
    named = page[page.index("**`login_required` on everything.**") :].split("- **CSRF.**")[0]

    @host.app.before_request
    def require_login() -> Any:
        if request.endpoint is not None and f"`{request.endpoint}`" not in named and "user_id" not in session:
            return redirect("/login")
        return None

    client = host.add_pushapp().test_client()
    for path in ("/push/client.js", "/push/service-worker.js", "/push/vapid-public-key"):
        with client.get(path) as response:
            assert response.status_code == 200
    assert client.get("/push/messages/1").status_code == 401
    assert client.get("/push/subscriptions").status_code == 302
