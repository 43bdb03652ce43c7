"""Messages for later, and messages that are cancelled. On both databases."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

import pushapp
from pushapp import EVERYONE, Channel, Message, MessageError
from tests.conftest import signed_in
from tests.support.http import expire, post
from tests.support.push_server import PushServer
from tests.support.sending import counts, drain, enqueue, execute, queued_only, scalar, status

HOUR = timedelta(hours=1)


@pytest.fixture
def app(sending_app: Flask) -> Flask:
    return sending_app


@pytest.fixture(params=["alice", ("alice", "bob"), Channel("news"), EVERYONE], ids=str)
def to(request: pytest.FixtureRequest, app: Flask) -> Any:
    with app.app_context():
        pushapp.join("alice", "news")
    return request.param


def in_an_hour() -> datetime:
    return datetime.now(UTC) + HOUR


def make_due(app: Flask) -> None:
    """Let an hour pass for all messages."""
    then = datetime.now(UTC) - timedelta(seconds=1)
    execute(app, "UPDATE push_messages SET send_at = :then", then=then)
    execute(app, "UPDATE push_batches SET due_at = :then", then=then)
    if (
        scalar(app, "SELECT count(*) FROM push_batches")
        and app.config["SQLALCHEMY_DATABASE_URI"].drivername != "sqlite"
    ):
        execute(app, "UPDATE push_queue.procrastinate_jobs SET scheduled_at = :then", then=then)


def subscribed(app: Flask, push_server: PushServer, user: str = "alice") -> dict[str, Any]:
    body = push_server.subscription()
    post(signed_in(app, user), body)
    return body


class TestLater:
    def test_a_message_is_sent_when_it_is_due_to_those_who_are_subscribed_then(
        self, app: Flask, push_server: PushServer, to: Any
    ) -> None:
        early = subscribed(app, push_server)
        message_id = enqueue(app, to, Message(title="x", ttl=60), at=in_an_hour())
        drain(app)
        found = status(app, message_id)
        assert (found.state, found.recipients, push_server.requests) == ("scheduled", 0, 0)
        late = subscribed(app, push_server)
        expire(app, 1)
        make_due(app)
        if app.config["SQLALCHEMY_DATABASE_URI"].drivername == "sqlite":
            enqueue(app, "carol")  # sends what is due
        drain(app)
        found = status(app, message_id)
        assert (found.state, found.recipients, counts(found)) == ("done", 1, (1, 0, 0))
        (push,) = push_server.pushes_to(late)
        assert push.headers["ttl"] == "60"
        assert push_server.pushes_to(early) == []

    def test_a_time_in_the_past_is_now(self, app: Flask, push_server: PushServer) -> None:
        subscribed(app, push_server)
        message_id = enqueue(app, "alice", at=datetime.now(UTC) - HOUR)
        drain(app)
        found = status(app, message_id)
        assert (found.state, found.send_at, counts(found)) == ("done", None, (1, 0, 0))

    @pytest.mark.parametrize(
        "at",
        [
            datetime.now(),  # naive
            datetime.now(UTC) + timedelta(days=366),
            "2030-01-01T00:00:00Z",
            1_900_000_000,
            datetime.max.replace(tzinfo=UTC),
        ],
    )
    def test_another_time_is_rejected(self, app: Flask, at: Any) -> None:
        with app.app_context(), pytest.raises(MessageError) as rejection:
            pushapp.send(Message(title="x"), to="alice", at=at)
        assert rejection.value.field == "at"

    def test_the_status_says_when(self, service: FlaskClient) -> None:
        at = in_an_hour().astimezone(timezone(timedelta(hours=2))).replace(microsecond=0)
        body = {"to": {"everyone": True}, "notification": {"title": "x"}, "send_at": at.isoformat()}
        message_id = post(service, body, "/push/messages").json["id"]
        found = service.get(f"/push/messages/{message_id}").get_json()
        assert found["state"] == "scheduled"
        assert datetime.fromisoformat(found["send_at"]) == at
        assert abs(datetime.fromisoformat(found["created_at"]) - datetime.now(UTC)) < timedelta(minutes=1)

    def test_the_shell_schedules_too(self, app: Flask) -> None:
        at = in_an_hour().replace(microsecond=0)
        arguments = ["push", "send", "alice", "--title", "x", "--at", at.isoformat()]
        done = app.test_cli_runner().invoke(args=arguments)
        assert done.stdout.strip().endswith(f": scheduled for {at.isoformat()}.")


class TestCancel:
    def test_a_scheduled_message_is_never_sent(
        self, app: Flask, service: FlaskClient, push_server: PushServer, to: Any
    ) -> None:
        subscribed(app, push_server)
        message_id = enqueue(app, to, at=in_an_hour())
        first = service.delete(f"/push/messages/{message_id}")
        assert (first.status_code, first.get_json()["state"]) == (200, "cancelled")
        again = service.delete(f"/push/messages/{message_id}")
        assert (again.status_code, again.json) == (200, first.json)
        assert service.get(f"/push/messages/{message_id}").json == first.json
        make_due(app)
        enqueue(app, "carol")
        drain(app)
        assert push_server.requests == 0

    @queued_only
    def test_what_is_queued_counts_as_cancelled(
        self, app: Flask, service: FlaskClient, push_server: PushServer, to: Any
    ) -> None:
        for _ in range(3):
            subscribed(app, push_server)
        message_id = enqueue(app, to)
        found = service.delete(f"/push/messages/{message_id}").get_json()
        assert (found["state"], found["recipients"], found["cancelled"]) == ("cancelled", 3, 3)
        drain(app)
        assert push_server.requests == 0
        assert service.get(f"/push/messages/{message_id}").json == found

    def test_a_message_that_is_done_cannot_be_cancelled(
        self, app: Flask, service: FlaskClient, push_server: PushServer
    ) -> None:
        subscribed(app, push_server)
        message_id = enqueue(app, "alice")
        drain(app)
        response = service.delete(f"/push/messages/{message_id}")
        assert (response.status_code, response.get_json()["code"]) == (409, 409)
        assert status(app, message_id).state == "done"

    def test_in_python_and_in_the_shell(self, app: Flask) -> None:
        with app.app_context():
            message_id = pushapp.send(Message(title="x"), to="alice", at=in_an_hour())
            assert pushapp.cancel(message_id).state == "cancelled"
            assert pushapp.cancel(message_id).state == "cancelled"
            with pytest.raises(LookupError):
                pushapp.cancel(message_id + 1)
        runner = app.test_cli_runner()
        other_id = enqueue(app, "alice", at=in_an_hour())
        done = runner.invoke(args=["push", "cancel", str(other_id)])
        assert (done.exit_code, status(app, other_id).state) == (0, "cancelled")
        assert done.stdout == f"Message {other_id}: cancelled; 0 sent, 0 gone, 0 failed, 0 queued.\n"
        finished = enqueue(app, "unknown")
        drain(app)
        for number, reason in ((finished, "is done"), (10**6, "there is no message")):
            done = runner.invoke(args=["push", "cancel", str(number)])
            assert (done.exit_code, reason in done.stderr) == (1, True)
            assert len(done.stderr.splitlines()) == 1
