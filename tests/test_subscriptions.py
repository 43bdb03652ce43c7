"""Many requests at once, in real threads, on both databases."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from flask import Flask

from tests.conftest import signed_in
from tests.support.subscriptions import subscription
from tests.web.test_http import rows

THREADS = 8


def all_at_once(app: Flask, requests: Sequence[tuple[str, str, dict[str, Any]]]) -> list[Any]:
    """Make each request (user, path, body) in a thread of its own, all of them at the same moment."""
    start = threading.Barrier(len(requests))
    answers: list[Any] = [None] * len(requests)

    def make(number: int) -> None:
        user, path, body = requests[number]
        client = signed_in(app, user)
        start.wait()
        answers[number] = client.post(path, json=body)

    threads = [threading.Thread(target=make, args=[number]) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * len(requests), [one.text for one in answers]
    return [answer.json["count"] for answer in answers]


def test_the_same_body_at_once_makes_one_row(app: Flask) -> None:
    for _ in range(10):
        body = subscription()
        counts = all_at_once(app, [("alice", "/push/subscribe", body)] * THREADS)
        assert len(set(counts)) == 1
        assert sum(row.endpoint == body["endpoint"] for row in rows(app)) == 1


def test_the_same_endpoint_with_other_keys_at_once_makes_one_row(app: Flask) -> None:
    for _ in range(10):
        endpoint = subscription()["endpoint"]
        bodies = [subscription(endpoint=endpoint) for _ in range(THREADS)]
        all_at_once(app, [("alice", "/push/subscribe", body) for body in bodies])
        (row,) = [row for row in rows(app) if row.endpoint == endpoint]
        assert row.keys_auth in [body["keys"]["auth"] for body in bodies]
        assert {"p256dh": row.keys_p256dh, "auth": row.keys_auth} in [body["keys"] for body in bodies]


def test_the_limit_holds(make_app: Callable[..., Flask]) -> None:
    app = make_app(PUSH_MAX_SUBSCRIPTIONS_PER_USER=3)
    for _ in range(10):
        requests = [("alice", "/push/subscribe", subscription()) for _ in range(THREADS)]
        assert max(all_at_once(app, requests)) <= 3
        assert len(rows(app)) == 3


def test_a_browser_ends_with_one_user(app: Flask) -> None:
    for _ in range(10):
        body = subscription()
        all_at_once(app, [(f"user {number}", "/push/subscribe", body) for number in range(THREADS)])
        assert sum(row.endpoint == body["endpoint"] for row in rows(app)) == 1


def test_everything_at_once_fails_nowhere(make_app: Callable[..., Flask]) -> None:
    app = make_app(PUSH_MAX_SUBSCRIPTIONS_PER_USER=2)
    bodies = [subscription() for _ in range(3)]
    for _ in range(10):
        requests = [
            (f"user {number % 2}", f"/push/{action}", bodies[number % 3])
            for number in range(THREADS)
            for action in ("subscribe", "unsubscribe")
        ]
        all_at_once(app, requests)
        kept = [(row.user_id, row.endpoint) for row in rows(app)]
        assert len({endpoint for _, endpoint in kept}) == len(kept)
        assert all(sum(user == owner for owner, _ in kept) <= 2 for user, _ in kept)
