"""Names: prefix and command group, several applications, and names that a host has taken."""

import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from flask import Blueprint, Flask
from flask.cli import AppGroup
from flask_smorest import Api
from flask_sqlalchemy import SQLAlchemy
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

import pushapp
from pushapp.database import engine
from pushapp.testing import create_tables
from tests.hosts.conftest import Host
from tests.support.subscriptions import subscription

on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
OTHER_ORIGIN = "https://app.example.com"


@on_sqlite
@pytest.mark.parametrize("url_prefix", ["/notify", "/notify/", "/a/b"])
def test_prefix_and_command_group_are_the_hosts_choice(host: Host, url_prefix: str) -> None:
    host.app.config.update(PUSH_ALLOWED_ORIGINS=[OTHER_ORIGIN], PUSH_OPENAPI_URL_PREFIX="/notify-api")
    app = host.add_pushapp(url_prefix=url_prefix, cli_group="notify", user_id=lambda: "alice")
    client, prefix = app.test_client(), url_prefix.rstrip("/")
    response = client.post(f"{prefix}/subscribe", json=subscription(), headers={"Origin": OTHER_ORIGIN})
    assert response.json == {"ok": True, "count": 1}
    assert response.headers["Access-Control-Allow-Origin"] == OTHER_ORIGIN
    preflight = client.options(
        f"{prefix}/subscribe", headers={"Origin": OTHER_ORIGIN, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.headers["Access-Control-Allow-Origin"] == OTHER_ORIGIN
    assert "Access-Control-Allow-Origin" not in client.get("/", headers={"Origin": OTHER_ORIGIN}).headers
    for script in ("client.js", "service-worker.js"):
        with client.get(f"{prefix}/{script}") as found:
            assert (found.status_code, found.mimetype) == (200, "text/javascript")
    assert client.get(f"{prefix}/nothing").get_json()["code"] == 404
    assert client.get(f"{prefix}/subscribe").get_json()["code"] == 405
    for path in ("/push/nothing", "/push/subscribe", f"{prefix}-board"):
        assert client.get(path).mimetype == "text/html"
    paths = client.get("/notify-api/openapi.json").get_json()["paths"]
    assert f"{prefix}/subscribe" in paths
    assert all(path.startswith(f"{prefix}/") for path in paths)
    assert app.test_cli_runner().invoke(args=["notify", "list", "alice"]).exit_code == 0
    assert "push" not in app.cli.commands


@on_sqlite
def test_no_help_text_names_another_command_group(host: Host) -> None:
    group = host.add_pushapp(cli_group="notify").cli.commands["notify"]
    assert isinstance(group, click.Group)
    database_group = group.commands["db"]
    assert isinstance(database_group, click.Group)
    commands = [*group.commands.values(), *database_group.commands.values()]
    assert len(commands) > 10
    for command in commands:
        help_text = command.get_help(click.Context(command, info_name=f"notify {command.name}"))
        assert not re.search(r"flask( --app \w+)? push|push (worker|cookie)", help_text), help_text


@on_sqlite
@pytest.mark.parametrize(
    "origin", ["https://[2001:db8::1]:8443", "https://a.b.example.com", "https://x--1.example"]
)
def test_an_allowed_origin_is_not_a_pattern(host: Host, origin: str) -> None:
    host.app.config["PUSH_ALLOWED_ORIGINS"] = [origin]
    client = host.add_pushapp(user_id=lambda: "alice").test_client()

    def subscribe_from(origin: str) -> tuple[int, str | None]:
        response = client.post("/push/subscribe", json=subscription(), headers={"Origin": origin})
        return response.status_code, response.headers.get("Access-Control-Allow-Origin")

    assert subscribe_from(origin) == (200, origin)
    for other in ("https://d:8443", "https://a-b.example.com", "https://aXb.example.com", f"{origin}.evil.example", f"x{origin}"):  # fmt: skip
        assert subscribe_from(other) == (403, None)


def test_a_taken_command_group_is_rejected(tmp_path: Path) -> None:
    host = Host(f"sqlite:///{tmp_path}/host.db", tmp_path)
    host.app.cli.add_command(AppGroup("push"))
    with pytest.raises(pushapp.ConfigurationError, match=r"command group named push: .* cli_group"):
        pushapp.init_app(host.app)
    assert host.app.cli.commands["push"].help is None
    host.app.cli.add_command(AppGroup("openapi", help="The host's."))  # flask-smorest has one, too
    host.add_pushapp(cli_group="web-push")
    assert set(host.app.cli.commands) == {"push", "openapi", "web-push"}
    assert host.app.cli.commands["openapi"].help == "The host's."
    host.close()


@on_sqlite
def test_a_taken_blueprint_name_and_a_second_call_are_rejected(host: Host) -> None:
    host.app.register_blueprint(Blueprint("push", __name__))  # no conflict
    host.add_pushapp()
    with pytest.raises(pushapp.ConfigurationError, match=r"blueprint named pushapp: call init_app once"):
        pushapp.init_app(host.app)
    with pytest.raises(pushapp.ConfigurationError, match="blueprint named pushapp"):
        pushapp.init_app(host.app, url_prefix="/other", cli_group="other")
    other = Flask("other")
    other.register_blueprint(Blueprint("pushapp", __name__))
    with pytest.raises(pushapp.ConfigurationError, match="or rename yours"):
        pushapp.init_app(other)


@on_sqlite
@pytest.mark.parametrize("name", ["push_subscriptions", "push_messages", "push_outcomes"])
def test_a_taken_table_name_is_rejected(host: Host, name: str) -> None:
    host.db.Table(name, host.db.Column("id", host.db.Integer, primary_key=True))
    with pytest.raises(pushapp.ConfigurationError, match=f"a table {name}, .* rename yours"):
        host.add_pushapp()


@pytest.mark.parametrize("driver", ["mysql+pymysql", "mariadb+pymysql"])
def test_another_database_is_rejected(tmp_path: Path, driver: str) -> None:
    host = Host(f"{driver}://user@127.0.0.1:1/name", tmp_path)  # engines connect at their first statement
    with pytest.raises(pushapp.ConfigurationError) as rejection:
        host.add_pushapp()
    name = driver.partition("+")[0]
    assert str(rejection.value) == f"the database is {name}: pushapp supports only postgresql and sqlite"


def test_binds_without_a_default_are_rejected(tmp_path: Path) -> None:
    app = Flask("host", instance_path=str(tmp_path))
    app.config.update(SQLALCHEMY_BINDS={"other": "sqlite://"})
    db = SQLAlchemy(app)
    with pytest.raises(pushapp.ConfigurationError, match="SQLALCHEMY_DATABASE_URI is not set"):
        pushapp.init_app(app)
    with app.app_context():
        db.engines["other"].dispose()


def test_two_applications_in_one_process_are_apart(tmp_path: Path) -> None:
    hosts = [
        Host(
            f"sqlite:///{tmp_path}/{name}.db", tmp_path, SESSION_COOKIE_NAME=name, PUSH_OPENAPI_URL_PREFIX="/"
        )
        for name in ("a", "b")
    ]
    clients = [
        host.add_pushapp(user_id=lambda: "alice", url_prefix=f"/push-{name}").test_client()
        for name, host in zip("ab", hosts, strict=True)
    ]
    assert clients[0].post("/push-a/subscribe", json=subscription()).get_json()["count"] == 1
    assert clients[1].get("/push-b/subscriptions").get_json()["count"] == 0
    for name, client in zip("ab", clients, strict=True):
        document = client.get("/openapi.json").get_json()
        assert document["components"]["securitySchemes"]["session"]["name"] == name
        assert f"/push-{name}/subscribe" in document["paths"]
        assert client.get("/push-a/nothing").mimetype == ("application/json" if name == "a" else "text/html")
    for host in hosts:
        host.close()


@on_sqlite
def test_pushapp_works_below_a_script_name(host: Host) -> None:
    host.app.config["PUSH_ALLOWED_ORIGINS"] = [OTHER_ORIGIN]
    app = host.add_pushapp(user_id=lambda: "alice")
    client = Client(DispatcherMiddleware(Flask("root"), {"/shop": app}))
    response = client.post("/shop/push/subscribe", json=subscription(), headers={"Origin": OTHER_ORIGIN})
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == OTHER_ORIGIN
    for method, path, status in (("GET", "nothing", 404), ("PUT", "subscribe", 405)):
        response = client.open(f"/shop/push/{path}", method=method)
        assert (response.status_code, response.mimetype) == (status, "application/json")
    assert client.get("/push/nothing").mimetype == "text/html"


@on_sqlite
@pytest.mark.parametrize("is_first", [True, False])
def test_a_flask_smorest_of_the_hosts_stays_its_own(host: Host, is_first: bool) -> None:
    host.app.config.update(API_TITLE="Shop", API_VERSION="1", OPENAPI_VERSION="3.0.2", OPENAPI_URL_PREFIX="/")
    host.app.config["PUSH_OPENAPI_URL_PREFIX"] = "/push"
    if is_first:
        Api(host.app)
    app = host.add_pushapp()
    if not is_first:
        Api(app)
    client = app.test_client()
    shop, push = client.get("/openapi.json").get_json(), client.get("/push/openapi.json").get_json()
    assert (shop["info"]["title"], shop["paths"]) == ("Shop", {})
    assert "/push/subscribe" in push["paths"]
    assert client.post("/push/subscribe", json={}).get_json()["code"] == 401
    assert client.get("/push/nothing").get_json()["code"] == 404
    assert client.get("/nothing").get_json()["status"] == "Not Found"  # flask-smorest's


def test_a_host_without_a_database_gets_pushapps(url: str, tmp_path: Path) -> None:
    app = Flask("plain", instance_path=str(tmp_path))
    app.config.update(SECRET_KEY="x", SQLALCHEMY_DATABASE_URI=url)
    if url.startswith("postgresql"):
        with pytest.raises(pushapp.ConfigurationError, match="PUSH_VAPID_PRIVATE_KEY is not set"):
            pushapp.init_app(app)
        return
    pushapp.init_app(app, user_id=lambda: "alice")
    create_tables(app)
    assert app.test_client().post("/push/subscribe", json=subscription()).json == {"ok": True, "count": 1}
    assert app.config["SESSION_COOKIE_NAME"] == "session"
    for path in ("/healthz", "/readyz", "/openapi.json", "/metrics", "/demo/"):
        assert app.test_client().get(path).status_code == 404
    with app.app_context():
        engine().dispose()


@on_sqlite
def test_the_hosts_models_and_pages_stay_as_they_are(host: Host, make_host: Callable[..., Host]) -> None:
    app = host.add_pushapp()
    assert set(host.db.metadata.tables) == {"user"}
    assert app.test_client().get("/").text == "Welcome"
    assert set(app.cli.commands) == {"push"}
