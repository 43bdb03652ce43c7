"""Names: prefix and command group, several applications, and what a host has of the same name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from flask import Blueprint, Flask
from flask.cli import AppGroup
from flask_smorest import Api
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

import pushapp
from pushapp.testing import create_tables
from tests.hosts.conftest import Host
from tests.support.deployment import ROOT
from tests.support.subscriptions import subscription

on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


@on_sqlite
def test_prefix_and_command_group_are_the_hosts_choice(host: Host) -> None:
    host.app.config["PUSH_ALLOWED_ORIGINS"] = ["https://app.example.com"]
    app = host.add_pushapp(url_prefix="/notify", cli_group="notify", user_id=lambda: "alice")
    client = app.test_client()
    response = client.post(
        "/notify/subscribe", json=subscription(), headers={"Origin": "https://app.example.com"}
    )
    assert response.json == {"ok": True, "count": 1}
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert client.get("/notify/nothing").json["code"] == 404
    assert client.get("/push/nothing").mimetype == "text/html"
    assert app.test_cli_runner().invoke(args=["notify", "list", "alice"]).exit_code == 0


@on_sqlite
def test_an_ipv6_origin_is_not_a_pattern(host: Host) -> None:
    host.app.config["PUSH_ALLOWED_ORIGINS"] = ["https://[2001:db8::1]:8443"]
    client = host.add_pushapp(user_id=lambda: "alice").test_client()
    for origin, allowed in (("https://[2001:db8::1]:8443", True), ("https://d:8443", False)):
        response = client.post("/push/subscribe", json=subscription(), headers={"Origin": origin})
        assert (response.headers.get("Access-Control-Allow-Origin") == origin) == allowed
        assert response.status_code == (200 if allowed else 403)


@on_sqlite
def test_a_command_group_of_the_same_name_is_rejected(host: Host) -> None:
    host.app.cli.add_command(AppGroup("push"))
    with pytest.raises(pushapp.ConfigurationError, match=r"command group named push: .* cli_group"):
        host.add_pushapp()


@on_sqlite
def test_a_blueprint_of_the_same_name_is_rejected_and_one_named_push_is_not(host: Host) -> None:
    host.app.register_blueprint(Blueprint("push", __name__))
    host.add_pushapp()
    with pytest.raises(pushapp.ConfigurationError, match="blueprint named pushapp"):
        pushapp.init_app(host.app)


@on_sqlite
def test_a_model_of_the_same_name_is_rejected(host: Host) -> None:
    host.db.Table("push_messages", host.db.Column("id", host.db.Integer, primary_key=True))
    with pytest.raises(pushapp.ConfigurationError, match="push_messages"):
        host.add_pushapp()


def test_a_table_of_the_same_name_in_the_database_is_rejected_and_stays(host: Host) -> None:
    host.db.init_app(host.app)
    pushapp.init_app(host.app)
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.execute(text("CREATE TABLE push_subscriptions (mine integer)"))
    done = host.app.test_cli_runner().invoke(args=["push", "db", "upgrade"])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: the database has a table push_subscriptions that is not pushapp's")
    assert len(done.stderr.splitlines()) == 1
    with host.app.app_context(), host.db.engine.begin() as connection:
        assert connection.execute(text("SELECT mine FROM push_subscriptions")).all() == []


@on_sqlite
def test_another_database_is_rejected(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    # A mock: MySQL's driver is no requirement.
    host.db.init_app(host.app)
    with host.app.app_context():
        monkeypatch.setattr(host.db.engine.dialect, "name", "mysql")
    with pytest.raises(pushapp.ConfigurationError, match="mysql: pushapp supports only"):
        pushapp.init_app(host.app)
    monkeypatch.undo()


def test_binds_without_a_default_are_rejected(tmp_path: Path) -> None:
    app = Flask("host", instance_path=str(tmp_path))
    app.config.update(SQLALCHEMY_BINDS={"other": "sqlite://"})
    db = SQLAlchemy(app)
    with pytest.raises(pushapp.ConfigurationError, match="SQLALCHEMY_DATABASE_URI is not set"):
        pushapp.init_app(app)
    with app.app_context():
        db.engines["other"].dispose()


def test_the_hosts_flask_command_prints_one_line(tmp_path: Path) -> None:
    (tmp_path / "host.py").write_text(
        "from flask import Flask\nimport pushapp\ndef create_app():\n    app = Flask('host')\n"
        "    app.config['PUSH_VAPID_SUBJEKT'] = 'x'\n    pushapp.init_app(app)\n    return app\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "host", "routes"], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "Error: PUSH_VAPID_SUBJEKT is not a setting: did you mean PUSH_VAPID_SUBJECT?\n"


def test_two_applications_in_one_process_are_apart(tmp_path: Path) -> None:
    hosts = [Host(f"sqlite:///{tmp_path}/{name}.db", tmp_path) for name in ("a", "b")]
    clients = [host.add_pushapp(user_id=lambda: "alice").test_client() for host in hosts]
    assert clients[0].post("/push/subscribe", json=subscription()).json["count"] == 1
    assert clients[1].get("/push/subscriptions").json["count"] == 0
    for host in hosts:
        host.close()


@on_sqlite
def test_pushapp_works_below_a_script_name(host: Host) -> None:
    app = host.add_pushapp(user_id=lambda: "alice")
    client = Client(DispatcherMiddleware(Flask("root"), {"/shop": app}))
    assert client.post("/shop/push/subscribe", json=subscription()).status_code == 200
    response = client.get("/shop/push/nothing")
    assert (response.status_code, response.mimetype) == (404, "application/json")


@on_sqlite
def test_a_flask_smorest_of_the_hosts_stays_its_own(host: Host) -> None:
    host.app.config.update(API_TITLE="Shop", API_VERSION="1", OPENAPI_VERSION="3.0.2", OPENAPI_URL_PREFIX="/")
    Api(host.app)
    client = host.add_pushapp().test_client()
    assert "/push/subscribe" not in client.get("/openapi.json").json["paths"]
    assert client.post("/push/subscribe", json={}).json["code"] == 401


def test_a_host_without_a_database_gets_pushapps(url: str, tmp_path: Path) -> None:
    app = Flask("plain", instance_path=str(tmp_path))
    app.config.update(SECRET_KEY="x", SQLALCHEMY_DATABASE_URI=url, PUSH_VAPID_PRIVATE_KEY=None)
    if url.startswith("postgresql"):
        with pytest.raises(pushapp.ConfigurationError, match="PUSH_VAPID_PRIVATE_KEY is not set"):
            pushapp.init_app(app)
        return
    pushapp.init_app(app, user_id=lambda: "alice")
    create_tables(app)
    assert app.test_client().post("/push/subscribe", json=subscription()).json == {"ok": True, "count": 1}
    with app.app_context():
        pushapp.engine().dispose()
