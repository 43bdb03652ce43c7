"""`GET /push/messages` and `flask push messages`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event

from pushapp import EVERYONE, Channel, Device, join
from pushapp.database import engine
from tests.conftest import signed_in
from tests.support.http import post
from tests.support.push_server import PushServer
from tests.support.sending import TOKEN, enqueue, send

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def fetch(app: Flask, query: str = "") -> Any:
    return app.test_client().get(f"/push/messages{query}", headers=HEADERS)


def ids(app: Flask, query: str = "") -> list[int]:
    return [message["id"] for message in fetch(app, query).json["messages"]]


@contextmanager
def counted_statements(app: Flask) -> Iterator[list[str]]:
    statements: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_arguments: object) -> None:
        statements.append(statement)

    with app.app_context():
        database_engine = engine()
    event.listen(database_engine, "before_cursor_execute", count)
    yield statements
    event.remove(database_engine, "before_cursor_execute", count)


def test_messages_are_listed_newest_first_each_as_alone(sending_app: Flask, push_server: PushServer) -> None:
    post(signed_in(sending_app, "alice"), push_server.subscription())
    for to in ("alice", "bob", EVERYONE):
        send(sending_app, to)
    enqueue(sending_app, "alice")
    listed = fetch(sending_app).json["messages"]
    assert len(listed) == 4
    assert [message["id"] for message in listed] == sorted((each["id"] for each in listed), reverse=True)
    for message in listed:
        one = sending_app.test_client().get(f"/push/messages/{message['id']}", headers=HEADERS)
        assert one.json == message
    assert [(message["recipients"], message["sent"]) for message in listed[1:]] == [(1, 1), (0, 0), (1, 1)]


def test_pages_follow_each_other(sending_app: Flask) -> None:
    sent = [enqueue(sending_app, "alice") for _ in range(5)][::-1]
    assert ids(sending_app, "?limit=2") == sent[:2]
    assert ids(sending_app, f"?limit=2&before={sent[1]}") == sent[2:4]
    assert ids(sending_app, f"?before={sent[3]}") == sent[4:]
    assert ids(sending_app, f"?before={sent[4]}") == []
    assert ids(sending_app, f"?before={2**63 - 1}&limit=100") == sent


def test_many_messages_cost_as_many_statements_as_one(sending_app: Flask) -> None:
    enqueue(sending_app, "alice")
    with counted_statements(sending_app) as of_one:
        fetch(sending_app)
    for _ in range(10):
        enqueue(sending_app, "alice")
    with counted_statements(sending_app) as of_many:
        assert len(ids(sending_app)) == 11
    assert len(of_many) == len(of_one) <= 4


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        *(
            (f"?limit={value}", "limit")
            for value in ("0", "101", "x", "", "-1", "1.5", "+5", "1_0", "%D9%A1")
        ),
        *((f"?before={value}", "before") for value in ("0", "x", str(2**63), "9" * 5_000)),
        ("?after=1", "after"),
    ],
)
def test_a_wrong_parameter_is_named(sending_app: Flask, query: str, parameter: str) -> None:
    response = fetch(sending_app, query)
    assert response.status_code == 422
    assert list(response.json["errors"]["query"]) == [parameter]


def test_the_list_needs_a_token(sending_app: Flask) -> None:
    assert sending_app.test_client().get("/push/messages").status_code == 401
    assert signed_in(sending_app, "alice").get("/push/messages").status_code == 401


def test_the_command_prints_to_whom_the_state_and_the_progress(
    sending_app: Flask, push_server: PushServer
) -> None:
    alice = signed_in(sending_app, "alice")
    post(alice, push_server.subscription())
    (stored,) = alice.get("/push/subscriptions").get_json()["subscriptions"]
    with sending_app.app_context():
        join("alice", "news")
    for to in ("alice", ["alice", "bob"], Channel("news"), Device(stored["id"]), EVERYONE, "bob"):
        send(sending_app, to)
    done = sending_app.test_cli_runner().invoke(args=["push", "messages", "--limit", "6"])
    header, *lines = done.stdout.splitlines()
    assert header.split() == [
        "id", "to", "state", "created", "recipients", "sent", "gone", "failed", "expired", "replaced", "cancelled", "progress",
    ]  # fmt: skip
    expected = ["one user", "everyone", "one device", "channel news", "2 users", "one user"]
    for line, to in zip(lines, expected, strict=True):
        assert f"  {to}  " in line
        assert "  done  " in line
    assert lines[0].endswith("-")
    assert all(line.endswith("100%") for line in lines[1:])
