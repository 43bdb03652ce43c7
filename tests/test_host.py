"""pushapp inside somebody else's application: its own pages, its own database, its own way to sign in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, login_user
from flask_migrate import Migrate, init, upgrade
from flask_migrate import migrate as make_migration
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Integer, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import pushapp
from pushapp import subscriptions
from pushapp.subscriptions import Subscription
from pushapp.webpush.vapid import generate_key_pair
from tests.support.postgresql import PostgreSQL
from tests.support.subscriptions import subscription


class Host:
    """A site with users, made the way Flask's documentation shows it."""

    def __init__(self, url: str, folder: Path):
        class Base(DeclarativeBase):
            pass

        self.db = SQLAlchemy(model_class=Base)

        class User(UserMixin, self.db.Model):  # type: ignore[name-defined]
            id: Mapped[int] = mapped_column(Integer, primary_key=True)

        self.app = app = Flask("host", instance_path=str(folder))
        app.config.update(
            SECRET_KEY="the site's own",
            SQLALCHEMY_DATABASE_URI=url.replace("postgresql:", "postgresql+psycopg:"),
            PUSH_SESSION_USER_KEY="_user_id",
            PUSH_VAPID_PRIVATE_KEY=generate_key_pair().private,
        )
        self.db.init_app(app)
        Migrate(app, self.db, directory=str(folder / "migrations"))
        login_manager = LoginManager(app)
        login_manager.user_loader(lambda id: self.db.session.get(User, int(id)))
        pushapp.init_app(app)

        @app.get("/")
        def home() -> str:
            return "Welcome"

        @app.post("/sign-in/<int:id>")
        def sign_in(id: int) -> str:
            user = self.db.session.get(User, id) or User(id=id)
            self.db.session.add(user)
            self.db.session.commit()
            login_user(user)
            return "Hello"

        with app.app_context():
            self.db.create_all()

    def sign_in(self, id: int) -> FlaskClient:
        client = self.app.test_client()
        assert client.post(f"/sign-in/{id}").status_code == 200
        return client


@pytest.fixture(params=["sqlite", "postgresql"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/host.db"
    else:
        url = request.getfixturevalue("server").create_database(f"host_{tmp_path.name}")
    host = Host(url, tmp_path)
    yield host
    with host.app.app_context():
        host.db.session.remove()
        host.db.engine.dispose()


def test_the_hosts_users_subscribe(host: Host) -> None:
    alice, bob, nobody = host.sign_in(1), host.sign_in(2), host.app.test_client()
    body = subscription()
    for _ in range(2):
        assert alice.post("/push/subscribe", json=body).json == {"ok": True, "count": 1}
    assert bob.post("/push/subscribe", json=body).json == {"ok": True, "count": 1}
    assert alice.get("/push/subscriptions").json["count"] == 0
    assert nobody.get("/push/subscriptions").status_code == 401


def test_the_table_is_in_the_hosts_database_and_metadata(host: Host) -> None:
    assert "push_subscriptions" in host.db.metadata.tables
    with host.app.app_context():
        assert {"push_subscriptions", "user"} <= set(inspect(host.db.engine).get_table_names())


@pytest.mark.filterwarnings("ignore:'get_engine' is deprecated")  # in the env.py that Flask-Migrate writes
def test_the_hosts_own_migrations_bring_the_table(host: Host) -> None:
    with host.app.app_context():
        host.db.drop_all()
        init()
        make_migration(message="all")
        upgrade()
        assert "push_subscriptions" in inspect(host.db.engine).get_table_names()
    body = subscription()
    for _ in range(2):
        assert host.sign_in(1).post("/push/subscribe", json=body).json == {"ok": True, "count": 1}


@pytest.mark.parametrize("host", ["postgresql"], indirect=True)
def test_the_hosts_users_wait_for_a_migration_it_has_not_made_yet(host: Host) -> None:
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE push_subscriptions DROP CONSTRAINT uq_push_subscriptions_user_id_endpoint_hash"
        )
    assert host.sign_in(1).post("/push/subscribe", json=subscription()).status_code == 503


def test_the_hosts_errors_stay_its_own(host: Host) -> None:
    client = host.app.test_client()
    assert client.get("/nothing").mimetype == "text/html"
    assert client.get("/push/nothing").json["code"] == 404
    assert client.put("/push/subscribe").json["code"] == 405
    assert client.post("/push/subscribe", json={}).json["code"] == 401
    assert client.get("/").text == "Welcome"


def test_the_hosts_cookie_and_settings_stay_its_own(host: Host) -> None:
    assert host.app.config["SESSION_COOKIE_NAME"] == "session"
    assert "demo" not in host.app.cli.commands
    assert "push" in host.app.cli.commands
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert host.app.test_client().get(path).status_code == 404


def test_what_the_host_has_not_committed_stays_uncommitted(tmp_path: Path, server: PostgreSQL) -> None:
    host = Host(server.create_database(tmp_path.name), tmp_path)
    body = subscription()
    users = host.db.metadata.tables["user"]
    with host.app.app_context():
        host.db.session.execute(users.insert().values(id=99))
        assert subscriptions.save("99", Subscription(body["endpoint"], **body["keys"])) == 1
        host.db.session.rollback()
        assert host.db.session.execute(users.select()).all() == []
        assert len(subscriptions.list_for("99")) == 1
        host.db.session.remove()
        host.db.engine.dispose()


def test_a_host_without_a_database_of_its_own_gets_pushapps(tmp_path: Path) -> None:
    app = Flask("plain", instance_path=str(tmp_path))
    app.config.update(SECRET_KEY="x", SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/plain.db")
    pushapp.init_app(app)
    with app.app_context():
        upgrade()
    client = app.test_client()
    with client.session_transaction() as session:
        session["user_id"] = "alice"
    assert client.post("/push/subscribe", json=subscription()).json == {"ok": True, "count": 1}
    with app.app_context():
        pushapp.extensions.db.engine.dispose()
