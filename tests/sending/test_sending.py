"""From `send` to the push service and back to the table, on both databases."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import bindparam, text

import pushapp
from pushapp import EVERYONE, Message, MessageError
from pushapp.extensions import db
from pushapp.models import UTCDateTime
from pushapp.sending import batches, outbox, worker
from tests.conftest import signed_in
from tests.support.push_server import PushServer
from tests.support.subscriptions import subscription
from tests.web.test_http import post, rows

TOKEN = "a long random token"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat in milliseconds what production repeats in seconds."""
    monkeypatch.setattr("pushapp.sending.batches.INITIAL_BACKOFF", 0.02)
    monkeypatch.setattr("pushapp.sending.worker.POLL_INTERVAL", 0.05)
    monkeypatch.setattr("pushapp.sending.synchronous.RETRY_WINDOW", timedelta(seconds=1))
    monkeypatch.setattr("pushapp.webpush.client.FAILURE_THRESHOLD", 10**6)


@pytest.fixture
def app(make_app: Callable[..., Flask], push_server: PushServer) -> Flask:
    return make_app(PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin], PUSH_API_TOKENS=["other", TOKEN])


def work(app: Flask) -> None:
    """Do what a worker does, until nothing is due."""
    with app.app_context():
        if db.engine.dialect.name == "postgresql":
            asyncio.run(worker.run_worker(app, drain=True))


def send(app: Flask, to: Any, message: Message | None = None, **options: Any) -> outbox.Status:
    with app.app_context():
        id = pushapp.send(message or Message(title="Hello"), to=to, **options)
    work(app)
    with app.app_context():
        return outbox.status(id)


def counts(status: outbox.Status) -> tuple[int, int, int]:
    return status.sent, status.gone, status.failed


def execute(app: Flask, statement: str, **moments: datetime) -> None:
    typed = text(statement).bindparams(*(bindparam(name, type_=UTCDateTime) for name in moments))
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(typed, moments)


def scalar(app: Flask, query: str) -> Any:
    with app.app_context(), db.engine.connect() as connection:
        return connection.execute(text(query)).scalar()


# On SQLite a message has left before anything else can happen.
queued_only = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class TestAMessage:
    def test_reaches_all_browsers_of_its_user_and_nobody_elses(
        self, app: Flask, push_server: PushServer
    ) -> None:
        hers, his = [push_server.subscription() for _ in range(3)], push_server.subscription()
        for body in hers:
            post(signed_in(app, "alice"), body)
        post(signed_in(app, "bob"), his)
        status = send(app, "alice", Message(title="Hello", body="Grüße 🎉"))
        assert (status.state, status.recipients, counts(status)) == ("done", 3, (3, 0, 0))
        for body in hers:
            (push,) = push_server.to(body)
            assert push.message["notification"] == {"title": "Hello", "body": "Grüße 🎉"}
        assert push_server.to(his) == []

    def test_reaches_everyone_in_slices(
        self, app: Flask, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pushapp.sending.audience.BATCH_SIZE", 4)
        bodies = [push_server.subscription() for _ in range(14)]
        for number, body in enumerate(bodies):
            post(signed_in(app, f"user {number % 5}"), body)
        execute(app, "DELETE FROM push_subscriptions WHERE user_id = 'user 3'")
        status = send(app, EVERYONE)
        assert (status.state, status.recipients, counts(status)) == ("done", 11, (11, 0, 0))
        assert len(push_server.pushes) == len({push.path for push in push_server.pushes}) == 11

    @queued_only
    def test_to_one_user_does_not_wait_for_one_to_everyone(
        self, app: Flask, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pushapp.sending.tasks.MAX_SLOT_HOLD", 60)
        body = push_server.subscription()
        post(signed_in(app, "alice"), body)
        urgent_came = threading.Event()
        in_time = []

        def send_to_her_and_wait() -> None:
            push_server.before_answer = urgent_came.set
            with app.app_context():
                pushapp.send(Message(title="urgent"), to="alice")
            in_time.append(urgent_came.wait(8))
            os.kill(os.getpid(), signal.SIGTERM)

        push_server.before_answer = send_to_her_and_wait
        with app.app_context():
            pushapp.send(Message(title="news"), to=EVERYONE)
            asyncio.run(worker.run_worker(app, concurrency=1))
        assert in_time == [True]
        titles = [push.message["notification"]["title"] for push in push_server.to(body)]
        assert titles == ["news", "urgent"]

    @pytest.mark.parametrize("to", ["nobody", EVERYONE])
    def test_to_nobody_is_done_at_once(self, app: Flask, to: Any) -> None:
        status = send(app, to)
        assert (status.state, status.recipients, counts(status)) == ("done", 0, (0, 0, 0))

    @pytest.mark.parametrize("to", ["", None, True, [], "x" * 256, "a\0"])
    def test_must_be_for_somebody(self, app: Flask, to: Any) -> None:
        with app.app_context(), pytest.raises(MessageError, match="to: "):
            pushapp.send(Message(title="x"), to=to)

    def test_may_be_for_a_number(self, app: Flask, push_server: PushServer) -> None:
        post(signed_in(app, 42), push_server.subscription())
        assert counts(send(app, 42)) == (1, 0, 0)

    def test_is_not_for_who_comes_later(self, app: Flask, push_server: PushServer) -> None:
        post(signed_in(app, "alice"), push_server.subscription())
        with app.app_context():
            id = pushapp.send(Message(title="x"), to="alice")
        late = push_server.subscription()
        post(signed_in(app, "alice"), late)
        work(app)
        with app.app_context():
            assert counts(outbox.status(id)) == (1, 0, 0)
        assert push_server.to(late) == []

    def test_is_not_for_what_has_expired(self, app: Flask, push_server: PushServer) -> None:
        post(signed_in(app, "alice"), push_server.subscription() | {"expirationTime": 1})
        assert send(app, "alice").recipients == 0

    def test_carries_its_options(self, app: Flask, push_server: PushServer) -> None:
        body = push_server.subscription()
        post(signed_in(app, "alice"), body)
        send(app, "alice", Message(title="x", ttl=100, urgency=pushapp.Urgency.LOW, topic="t"))
        (push,) = push_server.to(body)
        assert push.headers["ttl"] == "100"
        assert (push.headers["urgency"], push.headers["topic"]) == ("low", "t")
        assert push.claims["sub"] == "mailto:webmaster@site.org"


class TestAMessageToEveryone:
    @pytest.fixture(autouse=True)
    def in_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Cut slices of 2, two at a time, and count no further than the first piece."""
        monkeypatch.setattr("pushapp.sending.audience.BATCH_SIZE", 2)
        monkeypatch.setattr("pushapp.sending.batches.FAN_OUT_CHUNK", 4)
        monkeypatch.setattr("pushapp.sending.outbox.RECIPIENT_COUNT_LIMIT", 4)

    def test_reaches_all_once_in_however_many_pieces_it_is_cut(
        self, app: Flask, push_server: PushServer
    ) -> None:
        bodies = [push_server.subscription() for _ in range(11)]
        for number, body in enumerate(bodies):
            post(signed_in(app, f"user {number}"), body)
        status = send(app, EVERYONE)
        assert (status.state, status.recipients, status.fan_out_complete) == ("done", 11, True)
        assert counts(status) == (11, 0, 0)
        assert all(len(push_server.to(body)) == 1 for body in bodies)

    @queued_only
    def test_goes_on_where_a_cutting_worker_has_died(self, app: Flask, push_server: PushServer) -> None:
        for number in range(11):
            post(signed_in(app, f"user {number}"), push_server.subscription())
        with app.app_context():
            id = pushapp.send(Message(title="x"), to=EVERYONE)
            assert not outbox.status(id).fan_out_complete
            uncut = scalar(app, "SELECT id FROM push_batches")
            next(batches.fan_out(uncut))  # and no further
            assert outbox.status(id).recipients == 4
        work(app)
        with app.app_context():
            assert counts(outbox.status(id)) == (11, 0, 0)
        assert push_server.requests == 11

    @queued_only
    def test_does_not_hold_up_a_message_to_one_user(self, app: Flask, push_server: PushServer) -> None:
        for number in range(9):
            post(signed_in(app, f"user {number}"), push_server.subscription())
        with app.app_context():
            pushapp.send(Message(title="to all"), to=EVERYONE)
            list(batches.fan_out(scalar(app, "SELECT id FROM push_batches")))
            pushapp.send(Message(title="to one"), to="user 8")
        work(app)
        titles = [push.message["notification"]["title"] for push in push_server.pushes]
        assert titles.index("to one") <= 4  # the other slice in hand may have been faster


class TestWhatBecomesOfIt:
    def subscribed(
        self, app: Flask, push_server: PushServer, answer: Any = None, user: str = "alice"
    ) -> dict[str, Any]:
        body = push_server.subscription(answer)
        post(signed_in(app, user), body)
        return body

    @pytest.mark.parametrize("status", [404, 410])
    def test_a_subscription_that_is_gone_goes(self, app: Flask, push_server: PushServer, status: int) -> None:
        self.subscribed(app, push_server, (status, {}, b""))
        kept = self.subscribed(app, push_server)
        assert counts(send(app, "alice")) == (1, 1, 0)
        assert [row.endpoint for row in rows(app)] == [kept["endpoint"]]

    def test_one_that_was_renewed_meanwhile_stays(self, app: Flask, push_server: PushServer) -> None:
        body = push_server.subscription()
        renewed = subscription(endpoint=body["endpoint"])

        path = body["endpoint"].removeprefix(push_server.origin)
        post(signed_in(app, "alice"), body)
        push_server.answers[path] = (410, {}, b"")
        push_server.before_answer = lambda: post(signed_in(app, "alice"), renewed)
        assert counts(send(app, "alice")) == (0, 1, 0)
        (row,) = rows(app)
        assert row.keys_auth == renewed["keys"]["auth"]

    @pytest.mark.parametrize(
        "answer", [(429, {"Retry-After": "0"}, b""), (500, {}, b""), (503, {}, b""), b"", b"garbage"]
    )
    def test_what_is_passing_is_repeated(self, app: Flask, push_server: PushServer, answer: Any) -> None:
        body = push_server.subscription()
        path = body["endpoint"].removeprefix(push_server.origin)
        push_server.passing[path] = [answer, answer]
        post(signed_in(app, "alice"), body)
        with app.app_context():
            id = pushapp.send(Message(title="x"), to="alice")
        for _ in range(40):
            work(app)
            with app.app_context():
                status = outbox.status(id)
            if status.state == "done":
                break
        assert (status.state, counts(status)) == ("done", (1, 0, 0))
        assert push_server.requests == 3
        assert len(rows(app)) == 1

    def test_it_is_repeated_until_its_ttl_is_over(self, app: Flask, push_server: PushServer) -> None:
        self.subscribed(app, push_server, (503, {}, b""))
        status = send(app, "alice", Message(title="x", ttl=0))
        assert (status.state, counts(status)) == ("done", (0, 0, 1))
        assert push_server.requests == 1
        assert len(rows(app)) == 1

    def test_a_refusal_is_counted_and_not_repeated(self, app: Flask, push_server: PushServer) -> None:
        self.subscribed(app, push_server, (413, {}, b""))
        assert counts(send(app, "alice")) == (0, 0, 1)
        assert push_server.requests == 1
        assert scalar(app, "SELECT failures FROM push_failures") == 1

    def test_three_refusals_over_more_than_a_day_end_a_subscription(
        self, app: Flask, push_server: PushServer
    ) -> None:
        self.subscribed(app, push_server, (400, {}, b'{"reason": "VapidPkHashMismatch"}'))
        for _ in range(4):
            send(app, "alice")
        assert len(rows(app)) == 1  # often, but not for long
        execute(
            app,
            "UPDATE push_failures SET failures = 1, since = :then",
            then=datetime.now(UTC) - timedelta(days=2),
        )
        send(app, "alice")
        assert len(rows(app)) == 1  # for long, but not often
        send(app, "alice")
        assert rows(app) == []

    def test_a_success_between_forgives(self, app: Flask, push_server: PushServer) -> None:
        body = self.subscribed(app, push_server, (413, {}, b""))
        for _ in range(3):
            send(app, "alice")
        path = body["endpoint"].removeprefix(push_server.origin)
        refusal = push_server.answers.pop(path)
        send(app, "alice")
        assert scalar(app, "SELECT count(*) FROM push_failures") == 0
        push_server.answers[path] = refusal
        send(app, "alice")
        assert scalar(app, "SELECT failures FROM push_failures") == 1

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refusal_of_us_costs_no_row(self, app: Flask, push_server: PushServer, status: int) -> None:
        self.subscribed(app, push_server, (status, {}, b"bad token"))
        assert counts(send(app, "alice")) == (0, 0, 1)
        assert scalar(app, "SELECT count(*) FROM push_failures") == 0

    @queued_only
    def test_a_subscription_that_went_before_it_was_its_turn_is_gone(
        self, app: Flask, push_server: PushServer
    ) -> None:
        self.subscribed(app, push_server)
        with app.app_context():
            id = pushapp.send(Message(title="x"), to="alice")
        execute(app, "DELETE FROM push_subscriptions")
        work(app)
        with app.app_context():
            assert counts(outbox.status(id)) == (0, 1, 0)

    @queued_only
    def test_a_browser_that_changed_hands_gets_nothing_of_the_first_user(
        self, app: Flask, push_server: PushServer
    ) -> None:
        body = self.subscribed(app, push_server)
        with app.app_context():
            pushapp.send(Message(title="for alice"), to="alice")
        post(signed_in(app, "bob"), body)
        work(app)
        assert push_server.pushes == []

    def test_the_outcomes_are_known_by_push_service(self, app: Flask, push_server: PushServer) -> None:
        self.subscribed(app, push_server)
        self.subscribed(app, push_server, (410, {}, b""))
        send(app, "alice")
        with app.app_context(), db.engine.connect() as connection:
            found = connection.execute(
                text("SELECT push_service, outcome, count FROM push_outcomes ORDER BY outcome")
            )
            assert found.all() == [("127.0.0.1", "gone", 1), ("127.0.0.1", "sent", 1)]


def test_old_finished_messages_are_pruned(app: Flask, push_server: PushServer) -> None:
    post(signed_in(app, "alice"), push_server.subscription())
    for _ in range(2):
        send(app, "alice")
    then = datetime.now(UTC) - timedelta(days=31)
    execute(
        app,
        "UPDATE push_messages SET created_at = :then WHERE id = (SELECT min(id) FROM push_messages)",
        then=then,
    )
    with app.app_context():
        assert outbox.prune() == 1
        assert outbox.prune() == 0
    assert scalar(app, "SELECT count(*) FROM push_messages") == 1
    assert scalar(app, "SELECT sum(count) FROM push_outcomes") == 1


class TestOverHTTP:
    @pytest.fixture
    def service(self, app: Flask) -> FlaskClient:
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
        return client

    def body(self, **members: Any) -> dict[str, Any]:
        return {"to": {"user_id": "alice"}, "notification": {"title": "Hello"}} | members

    def test_a_service_sends_and_asks(
        self, app: Flask, service: FlaskClient, push_server: PushServer
    ) -> None:
        body = push_server.subscription()
        post(signed_in(app, "alice"), body)
        shown = {"title": "T", "body": "B", "navigate": "/x", "icon": "/i.png", "tag": "t", "data": {"a": [1]},
                 "actions": [{"action": "a", "title": "A", "navigate": "/a"}]}  # fmt: skip
        response = post(
            service, self.body(notification=shown, ttl=9, urgency="high", topic="t"), "/push/messages"
        )
        assert response.status_code == 202
        assert list(response.json) == ["id"]
        work(app)
        answer = service.get(f"/push/messages/{response.json['id']}")
        assert answer.status_code == 200
        assert answer.json == {
            "id": response.json["id"], "state": "done", "recipients": 1, "sent": 1, "gone": 0, "failed": 0,
        }  # fmt: skip
        (push,) = push_server.to(body)
        assert push.message == {"web_push": 8030, "notification": shown}
        assert push.headers["urgency"] == "high"

    def test_everyone(self, app: Flask, service: FlaskClient, push_server: PushServer) -> None:
        for user in ("alice", "bob"):
            post(signed_in(app, user), push_server.subscription())
        assert post(service, self.body(to={"everyone": True}), "/push/messages").status_code == 202
        work(app)
        assert len(push_server.pushes) == 2

    @queued_only
    def test_a_message_is_queued_first(
        self, app: Flask, service: FlaskClient, push_server: PushServer
    ) -> None:
        post(signed_in(app, "alice"), push_server.subscription())
        id = post(service, self.body(), "/push/messages").json["id"]
        assert service.get(f"/push/messages/{id}").json["state"] == "queued"

    def test_a_repeated_request_sends_nothing_twice(
        self, app: Flask, service: FlaskClient, push_server: PushServer
    ) -> None:
        post(signed_in(app, "alice"), push_server.subscription())
        headers = {"Idempotency-Key": "order 66"}
        answers = [post(service, self.body(), "/push/messages", headers=headers) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json["id"] for answer in answers}) == 1
        assert (
            post(service, self.body(), "/push/messages", headers={"Idempotency-Key": "67"}).json
            != answers[0].json
        )
        work(app)
        assert len(push_server.pushes) == 2

    @pytest.mark.parametrize("key", ["", "x" * 256, "é"])
    def test_a_key_that_is_none_is_named(self, service: FlaskClient, key: str) -> None:
        response = post(service, self.body(), "/push/messages", headers={"Idempotency-Key": key})
        assert response.status_code == 422
        assert "Idempotency-Key" in response.json["errors"]["headers"]

    @pytest.mark.parametrize(
        "authorization",
        [None, "", "Bearer", "Bearer ", "Bearer x", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer é"],
    )
    def test_a_token_is_needed(self, app: Flask, alice: FlaskClient, authorization: str | None) -> None:
        headers = {} if authorization is None else {"Authorization": authorization}
        for response in (
            post(alice, self.body(), "/push/messages", headers=headers),
            alice.get("/push/messages/1", headers=headers),
        ):
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"].lower().startswith("bearer")
            assert response.json["code"] == 401

    def test_without_tokens_nobody_may(self, make_app: Callable[..., Flask]) -> None:
        client = make_app().test_client()
        for authorization in ("Bearer ", "Bearer None", "Bearer []"):
            assert client.get("/push/messages/1", headers={"Authorization": authorization}).status_code == 401

    def test_the_order_of_judgement(self, app: Flask, service: FlaskClient) -> None:
        nobody = app.test_client()
        cross = {"Sec-Fetch-Site": "cross-site"}
        assert nobody.post("/push/messages", data="x", headers=cross).status_code == 403
        assert nobody.post("/push/messages", data="x").status_code == 415
        assert nobody.post("/push/messages", data="x", content_type="application/json").status_code == 401
        assert service.post("/push/messages", data="x", content_type="application/json").status_code == 400
        assert service.put("/push/messages").status_code == 405
        assert service.post("/push/messages", json={"x": "y" * 20_000}).status_code == 413

    @pytest.mark.parametrize("path", ["0", "9223372036854775807", "x", "-1"])
    def test_an_unknown_message_is_not_found(self, service: FlaskClient, path: str) -> None:
        assert service.get(f"/push/messages/{path}").status_code == 404

    @pytest.mark.parametrize(
        ("members", "path"),
        [
            ({"to": None}, ["to"]),
            ({"to": {}}, ["to"]),
            ({"to": {"user_id": ""}}, ["to", "user_id"]),
            ({"to": {"user_id": 7}}, ["to", "user_id"]),
            ({"to": {"everyone": False}}, ["to", "everyone"]),
            ({"to": {"everyone": "yes"}}, ["to", "everyone"]),
            ({"to": {"everyone": True, "user_id": "alice"}}, ["to"]),
            ({"notification": None}, ["notification"]),
            ({"notification": {}}, ["notification", "title"]),
            ({"notification": {"title": ""}}, ["notification", "title"]),
            ({"notification": {"title": "x", "navigate": "javascript:x"}}, ["notification", "navigate"]),
            ({"notification": {"title": "x", "actions": [{}]}}, ["notification", "actions"]),
            ({"notification": {"title": "x" * 4_000}}, ["notification"]),
            ({"notification": {"title": "\ud800"}}, ["notification"]),
            ({"ttl": -1}, ["ttl"]),
            ({"ttl": "1"}, ["ttl"]),
            ({"ttl": 1.5}, ["ttl"]),
            ({"urgency": "now"}, ["urgency"]),
            ({"topic": "x" * 33}, ["topic"]),
            ({"topic": "a b"}, ["topic"]),
        ],
    )
    def test_a_wrong_member_is_named(
        self, service: FlaskClient, members: dict[str, Any], path: list[str]
    ) -> None:
        response = post(service, self.body(**members), "/push/messages")
        assert response.status_code == 422
        errors = response.json["errors"]["json"]
        for name in path:
            assert name in errors, errors
            errors = errors[name]

    def test_a_ttl_over_28_days_is_taken(self, service: FlaskClient) -> None:
        assert post(service, self.body(ttl=10**9), "/push/messages").status_code == 202
