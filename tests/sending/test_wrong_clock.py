"""Workers whose clock is wrong: the database's decides. On PostgreSQL."""

import datetime as clock
import sys

import pytest
from flask import Flask

from pushapp import EVERYONE, Message
from tests.conftest import signed_in
from tests.support.http import post
from tests.support.push_server import PushServer
from tests.support.sending import counts, drain, enqueue, execute, queued_only, scalar, status
from tests.support.waiting import wait_until

pytestmark = queued_only


@pytest.fixture(params=[3, -3], ids=["fast", "slow"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the clock of what sends wrong by three days: tools that do it for a process break asyncio's clock."""

    class WrongClock(clock.datetime):
        @classmethod
        def now(cls, tz: clock.tzinfo | None = None) -> clock.datetime:  # type: ignore[override]  # not Self
            return clock.datetime.now(tz) + clock.timedelta(days=request.param)

    for name, module in list(sys.modules.items()):
        if name.startswith("pushapp.sending.") and hasattr(module, "datetime"):
            monkeypatch.setattr(module, "datetime", WrongClock)


@pytest.mark.usefixtures("wrong_clock")
def test_messages_are_sent_retried_and_counted(app: Flask, push_server: PushServer) -> None:
    unavailable, expiring = push_server.subscription(), push_server.subscription()
    path = unavailable["endpoint"].removeprefix(push_server.origin)
    push_server.transient_responses[path] = [(503, {"Retry-After": "1"}, b"")]
    for body in (unavailable, expiring):
        post(signed_in(app, "alice"), body)
    execute(app, "UPDATE push_subscriptions SET expires_at = now() + interval '1 day'")
    message_id = enqueue(app, EVERYONE, Message(title="Hello", ttl=60))

    def is_done() -> bool:
        drain(app)
        return status(app, message_id).state == "done"

    wait_until(is_done)
    assert counts(status(app, message_id)) == (2, 0, 0)
    assert push_server.requests == 3
    last_sent = "SELECT max(abs(extract(epoch FROM last_sent_at - now()))) FROM push_subscriptions"
    assert scalar(app, last_sent) < 60


@pytest.mark.usefixtures("wrong_clock")
def test_a_failing_subscription_has_its_day(app: Flask, push_server: PushServer) -> None:
    post(signed_in(app, "alice"), push_server.subscription((400, {}, b"invalid")))
    for _ in range(4):
        enqueue(app, EVERYONE)
        drain(app)
        execute(app, "UPDATE push_failures SET since = now() WHERE failures = 1")  # by another worker
    assert scalar(app, "SELECT failures FROM push_failures") == 4
    assert scalar(app, "SELECT count(*) FROM push_subscriptions") == 1


@pytest.mark.usefixtures("wrong_clock")
def test_what_is_neither_expired_nor_old_is_not_deleted(app: Flask, push_server: PushServer) -> None:
    post(signed_in(app, "alice"), push_server.subscription())
    execute(app, "UPDATE push_subscriptions SET expires_at = now() + interval '1 day'")
    app.config["PUSH_MESSAGE_RETENTION_DAYS"] = 2
    enqueue(app, EVERYONE)
    drain(app)
    assert app.test_cli_runner().invoke(args=["push", "prune"]).exit_code == 0
    assert scalar(app, "SELECT count(*) FROM push_subscriptions") == 1
    assert scalar(app, "SELECT count(*) FROM push_messages") == 1
