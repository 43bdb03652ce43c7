"""The README's host: `tests/example_host.py`, from its first start to a message."""

from pathlib import Path

import pytest
from flask_login import login_user

import pushapp
from pushapp.database import engine
from tests import example_host
from tests.hosts.conftest import KEY
from tests.support.push_server import PushServer


def test_the_example_signs_in_subscribes_and_sends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, push_server: PushServer
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/example.db")
    monkeypatch.setenv("SECRET_KEY", "the example's secret")
    monkeypatch.setenv("FLASK_PUSH_VAPID_PRIVATE_KEY", KEY)
    monkeypatch.setenv("FLASK_PUSH_TRUSTED_PUSH_SERVICES", f'["{push_server.origin}"]')
    app = example_host.create_app()
    assert "Running upgrade" not in app.test_cli_runner().invoke(args=["push", "db", "upgrade"]).output
    with app.app_context():
        example_host.db.create_all()
        user = example_host.User(id=7)
        example_host.db.session.add(user)
        example_host.db.session.commit()

    @app.post("/sign-in")
    @example_host.csrf.exempt
    def sign_in() -> str:
        login_user(example_host.db.session.get(example_host.User, 7))
        return "Hello"

    client, body = app.test_client(), push_server.subscription()
    assert client.post("/push/subscribe", json=body).status_code == 401
    assert client.post("/sign-in").text == "Hello"
    for _ in range(2):
        assert client.post("/push/subscribe", json=body).json == {"ok": True, "count": 1}
    with app.app_context():
        user = example_host.db.session.get_one(example_host.User, 7)
        message = pushapp.Message(title="Your parcel is here", navigate="/parcels/7")
        pushapp.send(message, to=user.get_id())
        pushapp.send(message, to=user.id)
    assert [push.message["notification"]["title"] for push in push_server.pushes_to(body)] == [
        "Your parcel is here"
    ] * 2
    assert client.post("/push/unsubscribe", json={"endpoint": body["endpoint"]}).get_json()["count"] == 0
    with app.app_context():
        example_host.db.session.remove()
        engine().dispose()
