"""Database outages: 503 during one, normal service after it, in the same process."""

import os
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from pushapp import create_app
from pushapp.database import engine, transaction
from tests.conftest import SETTINGS, migrate, signed_in
from tests.support.postgresql import PostgreSQL
from tests.support.subscriptions import subscription
from tests.support.waiting import wait_until


def application(url: str, folder: Path, **settings: Any) -> Flask:
    defaults = {"SQLALCHEMY_DATABASE_URI": url, "PUSH_MAX_SUBSCRIPTIONS_PER_USER": 100_000}
    return create_app(SETTINGS | defaults | settings, instance_path=str(folder))


@pytest.fixture
def app(fragile_url: str, tmp_path: Path) -> Iterator[Flask]:
    migrate(fragile_url, tmp_path)
    app = application(fragile_url, tmp_path)
    yield app
    with app.app_context():
        engine().dispose()


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
        started_at = time.monotonic()
        response = client.open(path, method=method, json=body)
        assert response.status_code == 503, (method, path, response.text)
        assert int(response.headers["Retry-After"]) > 0
        assert response.get_json()["status"] == "Service Unavailable"
        assert time.monotonic() - started_at < 10
    assert client.get("/healthz").status_code == 200


def test_a_killed_database(app: Flask, alice: FlaskClient, fragile: PostgreSQL) -> None:
    body = subscription()
    assert alice.post("/push/subscribe", json=body).get_json()["count"] == 1
    for _ in range(2):
        fragile.kill()
        assert_unavailable(alice)
        fragile.start()
        assert alice.post("/push/subscribe", json=body).json == {"ok": True, "count": 1}
    assert alice.get("/readyz").status_code == 200


def test_a_database_restarted_between_two_requests(
    app: Flask, alice: FlaskClient, fragile: PostgreSQL
) -> None:
    body = subscription()
    for stop in (fragile.kill, fragile.stop):
        alice.post("/push/subscribe", json=body)
        stop()
        fragile.start()
        assert alice.post("/push/subscribe", json=body).json == {"ok": True, "count": 1}


def test_a_database_unavailable_at_the_start(fragile: PostgreSQL, fragile_url: str, tmp_path: Path) -> None:
    fragile.stop()
    app = application(fragile_url, tmp_path)
    alice = signed_in(app, "alice")
    assert_unavailable(alice)
    fragile.start()
    assert_unavailable(alice)  # the migrations have not run yet
    with app.app_context():
        upgrade()
    assert alice.post("/push/subscribe", json=subscription()).get_json()["count"] == 1
    assert alice.get("/readyz").status_code == 200
    with app.app_context():
        engine().dispose()


def test_an_unresponsive_database(app: Flask, alice: FlaskClient, fragile: PostgreSQL) -> None:
    first, second = subscription(), subscription()
    alice.post("/push/subscribe", json=first)
    fragile.freeze()
    try:
        assert_unavailable(alice)
    finally:
        fragile.thaw()
    assert signed_in(app, "bob").post("/push/subscribe", json=second).json == {"ok": True, "count": 1}
    assert alice.post("/push/subscribe", json=first).get_json()["count"] >= 1


def test_an_unresponsive_database_occupies_only_one_thread(
    app: Flask, alice: FlaskClient, fragile: PostgreSQL
) -> None:
    body = subscription()
    alice.post("/push/subscribe", json=body)
    fragile.freeze()
    try:
        assert alice.post("/push/subscribe", json=body).status_code == 503  # one time-out opens the circuit
        trial = threading.Thread(target=alice.post, args=["/push/subscribe"], kwargs={"json": body})
        trial.start()
        wait_until(app.extensions["push_circuit_breaker"]._trial.locked, 5)
        started_at = time.monotonic()
        for _ in range(20):
            response = signed_in(app, "bob").post("/push/subscribe", json=body)
            assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        assert time.monotonic() - started_at < 20
        trial.join()
    finally:
        fragile.thaw()
    assert alice.post("/push/subscribe", json=body).status_code == 200


def test_an_exhausted_pool(fragile_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushapp.database.POOL_SIZE", 1)
    migrate(fragile_url, tmp_path)
    app = application(fragile_url, tmp_path)
    alice, body = signed_in(app, "alice"), subscription()
    with app.app_context(), engine().connect():
        started_at = time.monotonic()
        assert alice.post("/push/subscribe", json=body).status_code == 503
        assert time.monotonic() - started_at < 5
    assert alice.post("/push/subscribe", json=body).get_json()["count"] == 1
    with app.app_context():
        engine().dispose()


def test_a_row_locked_by_another_transaction(app: Flask, alice: FlaskClient, fragile: PostgreSQL) -> None:
    body = subscription()
    alice.post("/push/subscribe", json=body)
    with app.app_context(), engine().connect() as connection:
        connection.execution_options(isolation_level="READ COMMITTED")
        connection.exec_driver_sql("SELECT * FROM push_subscriptions FOR UPDATE")
        started_at = time.monotonic()
        changed = subscription(endpoint=body["endpoint"])
        response = alice.post("/push/subscribe", json=changed)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        assert time.monotonic() - started_at < 10
        connection.rollback()
    assert alice.post("/push/subscribe", json=changed).get_json()["count"] == 1


def test_no_acknowledged_subscription_is_lost_when_the_database_is_killed(
    app: Flask, fragile: PostgreSQL
) -> None:
    acknowledged: list[str] = []
    statuses: list[int] = []
    stop = threading.Event()

    def subscribe(user: str) -> None:
        client = signed_in(app, user)
        while not stop.is_set():
            body = subscription()
            status = client.post("/push/subscribe", json=body).status_code
            statuses.append(status)
            if status == 200:
                acknowledged.append(body["endpoint"])
            else:
                time.sleep(0.02)  # limits the contention for the interpreter's lock

    def wait_for_more(number: int, results: list[Any]) -> None:
        expected = len(results) + number
        wait_until(lambda: len(results) >= expected, 10)

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(subscribe, f"user {number}") for number in range(4)]
        try:
            for _ in range(2):
                wait_for_more(20, acknowledged)
                fragile.kill()
                wait_for_more(20, statuses)
                fragile.start()
                wait_for_more(10, acknowledged)  # service resumes
        finally:
            stop.set()
        for thread in running:
            thread.result()
    assert set(statuses) == {200, 503}
    with app.app_context(), engine().connect() as connection:
        found = connection.exec_driver_sql("SELECT endpoint FROM push_subscriptions")
        stored = {row.endpoint for row in found}
    assert set(acknowledged) <= stored


def test_all_statements_of_a_request_share_one_deadline(app: Flask) -> None:
    executed = []

    def execute() -> None:
        with transaction() as connection:
            while True:
                executed.append(connection.exec_driver_sql("SELECT pg_sleep(0.6)"))

    started_at = time.monotonic()
    with app.app_context(), pytest.raises(OperationalError):
        execute()
    assert len(executed) == 2
    assert time.monotonic() - started_at < 10


def test_a_forked_process_has_connections_of_its_own(app: Flask) -> None:
    def backend() -> int:
        with app.app_context(), transaction() as connection:
            return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())

    before = backend()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks in a process with threads
        child = os.fork()
    if not child:
        os.write(writer, str(backend()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reader, 20)) != before
    assert backend() == before


def test_a_process_that_stops_inside_a_transaction_loses_its_locks(app: Flask) -> None:
    with app.app_context(), transaction() as connection:
        shown = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar()
        connection.rollback()
        driver_connection = connection.connection.driver_connection
        assert isinstance(driver_connection, psycopg.Connection)
        keepalives = driver_connection.info.get_parameters()
    assert shown == "10s"
    assert keepalives["keepalives_idle"] == "5"
