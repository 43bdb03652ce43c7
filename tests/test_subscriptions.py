"""Concurrent requests, in real threads, on both databases."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from pushapp.database import engine
from pushapp.sending import failures
from tests.conftest import signed_in
from tests.support.http import expire, post, rows
from tests.support.subscriptions import subscription
from tests.support.threads import run_concurrently

THREADS = 8


@pytest.fixture(autouse=True)
def enough_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request waits for a pooled connection: a wait of over a second would be a 503."""
    monkeypatch.setattr("pushapp.database.POOL_SIZE", 2 * THREADS)


def request_concurrently(app: Flask, requests: Sequence[tuple[str, str, dict[str, Any]]]) -> list[Any]:
    """Make each request (user, path, body) in its own thread, and return the counts in the responses."""
    responses = run_concurrently(
        *(partial(post, signed_in(app, user), body, path) for user, path, body in requests)
    )
    failed = [response.text for response in responses if response.status_code != 200]
    assert failed == []
    return [response.json["count"] for response in responses]


def test_concurrent_repeats_store_one_row(app: Flask) -> None:
    for _ in range(10):
        body = subscription()
        counts = request_concurrently(app, [("alice", "/push/subscribe", body)] * THREADS)
        assert len(set(counts)) == 1
        assert sum(row.endpoint == body["endpoint"] for row in rows(app)) == 1


def test_concurrent_keys_for_one_endpoint_store_one_row(app: Flask) -> None:
    for _ in range(10):
        endpoint = subscription()["endpoint"]
        bodies = [subscription(endpoint=endpoint) for _ in range(THREADS)]
        request_concurrently(app, [("alice", "/push/subscribe", body) for body in bodies])
        (row,) = [row for row in rows(app) if row.endpoint == endpoint]
        assert row.keys_auth in [body["keys"]["auth"] for body in bodies]
        assert {"p256dh": row.keys_p256dh, "auth": row.keys_auth} in [body["keys"] for body in bodies]


def test_concurrent_subscriptions_do_not_exceed_the_limit(make_app: Callable[..., Flask]) -> None:
    app = make_app(PUSH_MAX_SUBSCRIPTIONS_PER_USER=3)
    for _ in range(10):
        requests = [("alice", "/push/subscribe", subscription()) for _ in range(THREADS)]
        assert max(request_concurrently(app, requests)) <= 3
        assert len(rows(app)) == 3


def test_concurrent_users_of_one_browser_leave_one_row(app: Flask) -> None:
    for _ in range(10):
        body = subscription()
        request_concurrently(app, [(f"user {number}", "/push/subscribe", body) for number in range(THREADS)])
        assert sum(row.endpoint == body["endpoint"] for row in rows(app)) == 1


def test_concurrent_requests_of_all_kinds_succeed(make_app: Callable[..., Flask]) -> None:
    app = make_app(PUSH_MAX_SUBSCRIPTIONS_PER_USER=2)
    bodies = [subscription() for _ in range(3)]
    for _ in range(10):
        requests = [
            (f"user {number % 2}", f"/push/{action}", bodies[number % 3])
            for number in range(THREADS)
            for action in ("subscribe", "unsubscribe")
        ]
        request_concurrently(app, requests)
        stored = [(row.user_id, row.endpoint) for row in rows(app)]
        assert len({endpoint for _, endpoint in stored}) == len(stored)
        assert all(sum(user == owner for owner, _ in stored) <= 2 for user, _ in stored)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_prune_skips_rows_that_another_transaction_has_locked(app: Flask, alice: FlaskClient) -> None:
    for _ in range(3):
        post(alice, subscription())
    expire(app, 3)
    locked = rows(app)[1]
    with app.app_context():
        with engine().connect() as connection:
            connection.execution_options(isolation_level="READ COMMITTED")
            connection.exec_driver_sql(f"SELECT * FROM push_subscriptions WHERE id = {locked.id} FOR UPDATE")
            started_at = time.monotonic()
            assert failures.prune() == 2
            assert time.monotonic() - started_at < 10
            assert rows(app) == [locked]
        assert failures.prune() == 1
