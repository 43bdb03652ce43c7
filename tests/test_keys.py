"""VAPID keys: each subscription has one, and a new key loses no subscription."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from pushapp.database import engine
from pushapp.webpush.vapid import generate_key_pair
from tests.conftest import signed_in
from tests.support.http import post, rows
from tests.support.push_server import PushServer
from tests.support.sending import counts, execute, send
from tests.support.subscriptions import subscription

OLD, NEW = generate_key_pair(), generate_key_pair()
BEFORE = {"PUSH_VAPID_PRIVATE_KEY": OLD.private}
ROTATED = {"PUSH_VAPID_PRIVATE_KEY": NEW.private, "PUSH_VAPID_PRIVATE_KEY_FALLBACKS": [OLD.private]}
REPLACED = {"PUSH_VAPID_PRIVATE_KEY": NEW.private}


@pytest.fixture
def make_sender(make_app: Callable[..., Flask], push_server: PushServer) -> Callable[..., Flask]:
    """Create applications that send to `push_server`."""
    return lambda **settings: make_app(PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin], **settings)


def alice(app: Flask) -> FlaskClient:
    return signed_in(app, "alice")


def stored_keys(app: Flask) -> list[Any]:
    return [row.vapid_key for row in rows(app)]


class TestStoring:
    def test_a_subscription_without_a_key_has_the_current_one(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(**ROTATED)
        post(alice(app), subscription())
        assert stored_keys(app) == [NEW.public]

    @pytest.mark.parametrize("key", [OLD.public, NEW.public], ids=["old", "new"])
    def test_a_known_key_is_stored(self, make_app: Callable[..., Flask], key: str) -> None:
        app = make_app(**ROTATED)
        assert post(alice(app), subscription(applicationServerKey=key)).status_code == 200
        assert stored_keys(app) == [key]

    def test_an_unknown_key_is_a_conflict_and_a_malformed_one_invalid(
        self, make_app: Callable[..., Flask]
    ) -> None:
        app = make_app(**REPLACED)
        assert post(alice(app), subscription(applicationServerKey=OLD.public)).status_code == 409
        for key in ("x", "", None, 5, OLD.public[:-2], [OLD.public]):
            response = post(alice(app), subscription(applicationServerKey=key))
            assert response.status_code == 422
            assert "applicationServerKey" in response.json["errors"]["json"]
        assert rows(app) == []

    def test_a_repeat_without_a_key_leaves_the_stored_one(self, make_app: Callable[..., Flask]) -> None:
        body = subscription()
        post(alice(make_app(**BEFORE)), body)
        app = make_app(**ROTATED)
        for repeat in (body, body | {"expirationTime": 1_900_000_000_000}):
            post(alice(app), repeat)
            assert stored_keys(app) == [OLD.public]

    def test_a_browser_that_moves_to_another_user_keeps_its_key(self, make_app: Callable[..., Flask]) -> None:
        body = subscription()
        post(alice(make_app(**BEFORE)), body)
        app = make_app(**ROTATED)
        post(signed_in(app, "bob"), body)
        assert [(row.user_id, row.vapid_key) for row in rows(app)] == [("bob", OLD.public)]

    @pytest.mark.parametrize("key", [OLD.public, NEW.public, None], ids=["old", "new", "none"])
    def test_a_renewal_stores_the_key_of_the_new_subscription(
        self, make_app: Callable[..., Flask], key: str | None
    ) -> None:
        old, new = subscription(), subscription()
        post(alice(make_app(**BEFORE)), old)
        app = make_app(**ROTATED)
        (before,) = rows(app)
        given = new if key is None else new | {"applicationServerKey": key}
        body = {"endpoint": old["endpoint"], "auth": old["keys"]["auth"], "subscription": given}
        assert post(app.test_client(), body, "/push/renew").status_code == 200
        (after,) = rows(app)
        assert (after.id, after.endpoint, after.vapid_key) == (before.id, new["endpoint"], key or NEW.public)

    def test_a_renewal_with_an_unknown_key_changes_nothing(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(**BEFORE)
        old = subscription()
        post(alice(app), old)
        body = {"endpoint": old["endpoint"], "auth": old["keys"]["auth"]}
        for key, status in ((NEW.public, 409), ("x", 422)):
            new = subscription(applicationServerKey=key)
            response = post(app.test_client(), body | {"subscription": new}, "/push/renew")
            assert response.status_code == status
        assert [row.endpoint for row in rows(app)] == [old["endpoint"]]

    def test_a_repeat_with_its_key_writes_nothing(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(**ROTATED)
        body = subscription(applicationServerKey=OLD.public)
        post(alice(app), body)
        before = rows(app)
        post(alice(app), body)
        assert rows(app) == before


class TestSending:
    def test_each_message_is_signed_with_the_key_of_its_subscription(
        self, make_sender: Callable[..., Flask], push_server: PushServer
    ) -> None:
        old, new = push_server.subscription(), push_server.subscription()
        post(alice(make_sender(**BEFORE)), old)
        app = make_sender(**ROTATED)
        post(alice(app), new)
        assert counts(send(app, "alice")) == (2, 0, 0)
        (to_old,), (to_new,) = push_server.pushes_to(old), push_server.pushes_to(new)
        assert (to_old.claims["k"], to_new.claims["k"]) == (OLD.public, NEW.public)

    def test_a_subscription_stored_before_its_key_was_uses_the_oldest(
        self, make_sender: Callable[..., Flask], push_server: PushServer
    ) -> None:
        body = push_server.subscription()
        app = make_sender(**ROTATED)
        post(alice(app), body)
        execute(app, "UPDATE push_subscriptions SET vapid_key = NULL")
        assert counts(send(app, "alice")) == (1, 0, 0)
        assert push_server.pushes_to(body)[0].claims["k"] == OLD.public

    def test_a_subscription_whose_key_is_missing_fails_unsent_and_the_log_says_so_once(
        self,
        make_sender: Callable[..., Flask],
        push_server: PushServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        before = make_sender(**BEFORE)
        for _ in range(3):
            post(alice(before), push_server.subscription())
        current = push_server.subscription()
        app = make_sender(**REPLACED)
        post(alice(app), current)
        with caplog.at_level(logging.WARNING, "pushapp"):
            assert counts(send(app, "alice")) == (1, 0, 3)
        assert [push.path for push in push_server.pushes] == [current["endpoint"][len(push_server.origin) :]]
        (line,) = [message for message in caplog.messages if "flask push keys" in message]
        assert "/wpush/" not in line
        with app.app_context(), engine().connect() as connection:
            failures = connection.execute(text("SELECT count(*) FROM push_failures")).scalar()
        assert failures == 3


class TestCommand:
    def test_keys_lists_current_fallback_and_missing_with_their_subscriptions(
        self, make_app: Callable[..., Flask]
    ) -> None:
        lost = generate_key_pair()
        for settings, number in (({"PUSH_VAPID_PRIVATE_KEY": lost.private}, 1), (BEFORE, 2), (REPLACED, 3)):
            app = make_app(**settings)
            for _ in range(number):
                post(alice(app), subscription())
        app = make_app(**ROTATED)
        execute(
            app,
            "UPDATE push_subscriptions SET vapid_key = NULL WHERE id = (SELECT max(id) - 3 FROM push_subscriptions)",
        )
        done = app.test_cli_runner().invoke(args=["push", "keys"])
        assert done.exit_code == 0, done.output
        listed = [line.split("\t") for line in done.stdout.splitlines()]
        assert [(key, number, state.split(":")[0]) for key, number, state in listed] == [
            (NEW.public, "3", "current"),
            (OLD.public, "2", "fallback"),
            (lost.public, "1", "missing"),
        ]
        assert "PUSH_VAPID_PRIVATE_KEY_FALLBACKS" in listed[2][2]
        assert "3 of 6 subscriptions are left to move" in done.stderr
        assert OLD.private not in done.output

    def test_keys_without_subscriptions(self, make_app: Callable[..., Flask]) -> None:
        done = make_app(**BEFORE).test_cli_runner().invoke(args=["push", "keys"])
        assert done.stdout.startswith(f"{OLD.public}\t0\tcurrent")
        assert "0 of 0" in done.stderr
