"""Signals: sent once for what is committed; receivers that raise change nothing."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from pushapp import signals
from tests.conftest import signed_in
from tests.support.http import post, rows
from tests.support.signals import received
from tests.support.subscriptions import subscription
from tests.support.threads import run_concurrently


def ids(app: Flask) -> list[int]:
    return [row.id for row in rows(app)]


class TestSubscriptions:
    def test_a_new_subscription_is_announced_once_and_repeats_are_silent(
        self, app: Flask, alice: FlaskClient
    ) -> None:
        body = subscription()
        with received(app) as found:
            for repeat in (body, body, body | {"expirationTime": 1_900_000_000_000}):
                post(alice, repeat)
        assert found == [("subscribed", {"subscription_id": ids(app)[0], "user_id": "alice"})]

    def test_the_same_subscription_from_two_tabs_at_once_is_announced_once(self, app: Flask) -> None:
        body = subscription()
        with received(app) as found:
            run_concurrently(*[lambda: post(signed_in(app, "alice"), body)] * 4)
        assert [name for name, _ in found] == ["subscribed"]

    def test_unsubscribing_is_announced_if_there_was_one(self, app: Flask, alice: FlaskClient) -> None:
        bodies = [subscription(), subscription()]
        for body in bodies:
            post(alice, body)
        first, second = ids(app)
        with received(app) as found:
            for _ in range(2):
                post(alice, {"endpoint": bodies[0]["endpoint"]}, "/push/unsubscribe")
                alice.delete(f"/push/subscriptions/{second}")
        expected = [{"subscription_id": each, "user_id": "alice"} for each in (first, second)]
        assert found == [("unsubscribed", values) for values in expected]

    def test_a_browser_that_moves_is_announced_for_both_users(
        self, app: Flask, alice: FlaskClient, bob: FlaskClient
    ) -> None:
        body = subscription()
        post(alice, body)
        (before,) = ids(app)
        with received(app) as found:
            post(bob, body)
        (after,) = ids(app)
        assert found == [
            ("subscribed", {"subscription_id": after, "user_id": "bob"}),
            ("unsubscribed", {"subscription_id": before, "user_id": "alice"}),
        ]

    def test_the_oldest_of_too_many_is_announced(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(PUSH_MAX_SUBSCRIPTIONS_PER_USER=1)
        alice = signed_in(app, "alice")
        post(alice, subscription())
        with received(app) as found:
            post(alice, subscription())
        assert [name for name, _ in found] == ["subscribed", "unsubscribed"]

    def test_a_renewal_is_silent(self, app: Flask, alice: FlaskClient) -> None:
        old, new = subscription(), subscription()
        post(alice, old)
        with received(app) as found:
            body = {"endpoint": old["endpoint"], "auth": old["keys"]["auth"], "subscription": new}
            assert post(app.test_client(), body, "/push/renew").status_code == 200
            post(alice, new)
        assert found == []

    def test_a_receiver_that_raises_costs_one_log_line(
        self, app: Flask, alice: FlaskClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_app: Flask, **_values: Any) -> None:
            raise ZeroDivisionError("mine")

        with signals.subscribed.connected_to(fail, app), received(app) as found:
            assert post(alice, subscription()).json == {"ok": True, "count": 1}
        assert [name for name, _ in found] == ["subscribed"]
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "subscribed raised ZeroDivisionError('mine')" in record.getMessage()
        assert record.exc_info is None
