"""PUSH_MESSAGE_RETENTION_DAYS."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

from pushapp import ConfigurationError
from tests.support.sending import enqueue, execute, scalar


def test_finished_messages_are_deleted_after_the_days_of_the_setting(make_app: Callable[..., Flask]) -> None:
    app = make_app(PUSH_MESSAGE_RETENTION_DAYS=2)
    now = datetime.now(UTC)
    for days in (1, 3, 3):
        execute(
            app,
            f"UPDATE push_messages SET created_at = :then WHERE id = {enqueue(app, 'alice')}",
            then=now - timedelta(days=days),
        )
    # Created long ago to be sent later: its days begin then.
    last = scalar(app, "SELECT max(id) FROM push_messages")
    execute(app, f"UPDATE push_messages SET send_at = :then WHERE id = {last}", then=now)
    assert "Deleted 1 old messages." in app.test_cli_runner().invoke(args=["push", "prune"]).stdout
    assert scalar(app, "SELECT count(*) FROM push_messages") == 2


@pytest.mark.parametrize("days", [0, -1, 1.5, "30", True])
def test_other_values_stop_the_start(make_app: Callable[..., Flask], days: object) -> None:
    with pytest.raises(
        ConfigurationError, match="PUSH_MESSAGE_RETENTION_DAYS must be an integer of at least 1"
    ):
        make_app(PUSH_MESSAGE_RETENTION_DAYS=days)


def test_a_huge_number_of_days_keeps_all(make_app: Callable[..., Flask]) -> None:
    app = make_app(PUSH_MESSAGE_RETENTION_DAYS=10**12)
    enqueue(app, "alice")
    assert app.test_cli_runner().invoke(args=["push", "prune"]).exit_code == 0
    assert scalar(app, "SELECT count(*) FROM push_messages") == 1
