"""The database goes away and comes back: 503 meanwhile, and then service as before, in the same process."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from sqlalchemy.exc import OperationalError

from pushapp import create_app
from pushapp.config import database_url, engine_options
from pushapp.database import transaction
from pushapp.extensions import db
from tests.conftest import SETTINGS, migrate, signed_in
from tests.support.postgresql import PostgreSQL
from tests.support.subscriptions import subscription


@pytest.fixture
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    server = PostgreSQL(tmp_path_factory.mktemp("fragile"))
    yield server
    server.stop()


def application(server: PostgreSQL, folder: Path, **settings: Any) -> Flask:
    own = {"SQLALCHEMY_DATABASE_URI": server.url(), "PUSH_MAX_SUBSCRIPTIONS_PER_USER": 100_000}
    return create_app(SETTINGS | own | settings, instance_path=str(folder))


@pytest.fixture
def app(fragile: PostgreSQL, tmp_path: Path) -> Iterator[Flask]:
    migrate(fragile.url(), tmp_path)
    app = application(fragile, tmp_path)
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def alice(app: Flask) -> FlaskClient:
    return signed_in(app, "alice")


def assert_unavailable(client: FlaskClient) -> None:
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/push/subscribe", subscription()),
        ("POST", "/push/unsubscribe", {"endpoint": "https://push.example.net/"}),
        ("GET", "/push/subscriptions", {}),
        ("DELETE", "/push/subscriptions/1", {}),
        ("GET", "/readyz", {}),
    ]
    for method, path, body in requests:
        began = time.monotonic()
        response = client.open(path, method=method, json=body)
        assert response.status_code == 503, (method, path, response.text)
        assert int(response.headers["Retry-After"]) > 0
        assert response.json["status"] == "Service Unavailable"
        assert time.monotonic() - began < 5
    assert client.get("/healthz").status_code == 200


def test_a_database_that_is_killed(app: Flask, alice: FlaskClient, fragile: PostgreSQL) -> None:
    body = subscription()
    assert alice.post("/push/subscribe", json=body).json["count"] == 1
    for _ in range(2):
        fragile.kill()
        assert_unavailable(alice)
        fragile.start()
        assert alice.post("/push/subscribe", json=body).json == {"ok": True, "count": 1}
    assert alice.get("/readyz").status_code == 200


def test_a_database_that_is_restarted_between_two_requests(
    app: Flask, alice: FlaskClient, fragile: PostgreSQL
) -> None:
    body = subscription()
    for stop in (fragile.kill, fragile.stop):
        alice.post("/push/subscribe", json=body)
        stop()
        fragile.start()
        assert alice.post("/push/subscribe", json=body).json == {"ok": True, "count": 1}


def test_a_database_that_is_not_there_at_the_start(fragile: PostgreSQL, tmp_path: Path) -> None:
    fragile.stop()
    app = application(fragile, tmp_path)
    alice = signed_in(app, "alice")
    assert_unavailable(alice)
    fragile.start()
    assert_unavailable(alice)  # its table is not there yet
    with app.app_context():
        upgrade()
    assert alice.post("/push/subscribe", json=subscription()).json["count"] == 1
    assert alice.get("/readyz").status_code == 200
    with app.app_context():
        db.engine.dispose()


def test_a_database_that_stops_answering(app: Flask, alice: FlaskClient, fragile: PostgreSQL) -> None:
    first, second = subscription(), subscription()
    alice.post("/push/subscribe", json=first)
    fragile.freeze()
    try:
        assert_unavailable(alice)
    finally:
        fragile.thaw()
    assert signed_in(app, "bob").post("/push/subscribe", json=second).json == {"ok": True, "count": 1}
    assert alice.post("/push/subscribe", json=first).json["count"] >= 1


def test_a_database_that_stops_answering_holds_one_thread_and_not_all(
    app: Flask, alice: FlaskClient, fragile: PostgreSQL
) -> None:
    body = subscription()
    alice.post("/push/subscribe", json=body)
    fragile.freeze()
    try:
        for _ in range(3):  # until it is known
            assert alice.post("/push/subscribe", json=body).status_code == 503
        trial = threading.Thread(target=alice.post, args=["/push/subscribe"], kwargs={"json": body})
        trial.start()
        time.sleep(0.2)
        began = time.monotonic()
        for _ in range(20):
            response = signed_in(app, "bob").post("/push/subscribe", json=body)
            assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        assert time.monotonic() - began < 1
        trial.join()
    finally:
        fragile.thaw()
    assert alice.post("/push/subscribe", json=body).status_code == 200


def test_a_pool_that_is_used_up(fragile: PostgreSQL, tmp_path: Path) -> None:
    migrate(fragile.url(), tmp_path)
    options = engine_options(database_url(fragile.url())) | {"pool_size": 1, "max_overflow": 0}
    app = application(fragile, tmp_path, SQLALCHEMY_ENGINE_OPTIONS=options)
    alice, body = signed_in(app, "alice"), subscription()
    with app.app_context(), db.engine.connect():
        began = time.monotonic()
        assert alice.post("/push/subscribe", json=body).status_code == 503
        assert time.monotonic() - began < 2
    assert alice.post("/push/subscribe", json=body).json["count"] == 1
    with app.app_context():
        db.engine.dispose()


def test_a_row_that_somebody_else_holds(app: Flask, alice: FlaskClient, fragile: PostgreSQL) -> None:
    body = subscription()
    alice.post("/push/subscribe", json=body)
    with app.app_context(), db.engine.connect() as connection:
        connection.execution_options(isolation_level="READ COMMITTED")
        connection.exec_driver_sql("SELECT * FROM push_subscriptions FOR UPDATE")
        began = time.monotonic()
        changed = subscription(endpoint=body["endpoint"])
        response = alice.post("/push/subscribe", json=changed)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        assert time.monotonic() - began < 5
        connection.rollback()
    assert alice.post("/push/subscribe", json=changed).json["count"] == 1


def test_nothing_acknowledged_is_lost_when_it_is_killed(app: Flask, fragile: PostgreSQL) -> None:
    acknowledged: list[str] = []
    statuses: set[int] = set()
    stop = threading.Event()

    def subscribe(user: str) -> None:
        client = signed_in(app, user)
        while not stop.is_set():
            body = subscription()
            response = client.post("/push/subscribe", json=body)
            statuses.add(response.status_code)
            if response.status_code == 200:
                acknowledged.append(body["endpoint"])
            else:
                time.sleep(0.02)  # or they would fight each other for the interpreter's lock

    threads = [threading.Thread(target=subscribe, args=[f"user {number}"]) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            time.sleep(0.4)
            fragile.kill()
            time.sleep(0.2)
            fragile.start()
            wanted = len(acknowledged) + 10
            deadline = time.monotonic() + 5
            while len(acknowledged) < wanted:
                assert time.monotonic() < deadline, "service did not resume"
                time.sleep(0.01)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert statuses == {200, 503}
    with app.app_context(), db.engine.connect() as connection:
        kept = {row.endpoint for row in connection.exec_driver_sql("SELECT endpoint FROM push_subscriptions")}
    assert set(acknowledged) <= kept


def test_all_that_one_request_asks_has_one_bound(app: Flask) -> None:
    asked = []

    def ask() -> None:
        with transaction() as connection:
            while True:
                asked.append(connection.exec_driver_sql("SELECT pg_sleep(0.6)"))

    began = time.monotonic()
    with app.app_context(), pytest.raises(OperationalError):
        ask()
    assert len(asked) == 2
    assert time.monotonic() - began < 2
