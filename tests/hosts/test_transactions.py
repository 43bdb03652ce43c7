"""`send(connection=…)`: a message is part of the host's transaction."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, create_engine, event, make_url, text

import pushapp
from pushapp import EVERYONE, Channel, Message, subscriptions
from pushapp.sending.status import MessageNotFoundError, status
from pushapp.sending.worker import run_worker
from pushapp.subscriptions import Subscription
from tests.hosts.conftest import Host
from tests.support.push_server import PushServer

HELLO = Message(title="Hello")
AUDIENCES = ["alice", ["alice", "bob"], Channel("news"), EVERYONE]


@pytest.fixture(params=["sqlite", "psycopg", "psycopg2"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/host.db"
    created: str = request.getfixturevalue("server").create_database(f"host_{tmp_path.name}")
    return created.replace("postgresql:", f"postgresql+{request.param}:")


on_postgresql = pytest.mark.parametrize("url", ["psycopg", "psycopg2"], indirect=True)


@pytest.fixture
def host(url: str, make_host: Callable[..., Host], push_server: PushServer) -> Iterator[Host]:
    """A host with its own tables, alice's browser, and a member of a channel."""
    host = make_host(url, PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin])
    with host.add_pushapp().app_context():
        host.db.create_all()
        body = push_server.subscription()
        subscriptions.save("alice", Subscription(body["endpoint"], **body["keys"]))
        pushapp.join("alice", "news")
        yield host


def deliver(app: Flask) -> None:
    asyncio.run(run_worker(app, drain=True))


def messages(host: Host) -> int:
    """Return how many messages are committed."""
    with host.db.engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM push_messages")).scalar_one())


def insert_user(connection: Connection, host: Host) -> None:
    connection.execute(host.users.insert())


@pytest.mark.parametrize("to", AUDIENCES, ids=str)
def test_a_message_is_sent_if_the_hosts_transaction_commits(
    host: Host, push_server: PushServer, to: Any
) -> None:
    connection = host.db.session.connection()
    insert_user(connection, host)
    message_id = pushapp.send(HELLO, to=to, connection=connection)
    assert push_server.requests == 0
    if host.db.engine.dialect.name == "postgresql":
        assert messages(host) == 0
        deliver(host.app)
        assert push_server.requests == 0
    host.db.session.commit()
    deliver(host.app)
    found = status(message_id)
    assert (found.state, found.sent, push_server.requests) == ("done", 1, 1)


@pytest.mark.parametrize("to", AUDIENCES, ids=str)
def test_a_message_of_a_transaction_that_is_rolled_back_does_not_exist(
    host: Host, push_server: PushServer, to: Any
) -> None:
    connection = host.db.session.connection()
    insert_user(connection, host)
    message_id = pushapp.send(HELLO, to=to, connection=connection)
    host.db.session.rollback()
    assert messages(host) == 0
    deliver(host.app)
    assert push_server.requests == 0
    with pytest.raises(MessageNotFoundError):
        status(message_id)


def test_a_savepoint_takes_its_message_back(host: Host, push_server: PushServer) -> None:
    if host.db.engine.dialect.name == "sqlite":
        # The driver's transactions have no working savepoints (SQLAlchemy, "Serializable isolation / Savepoints").
        event.listen(host.db.engine, "connect", lambda each, _: setattr(each, "isolation_level", None))
        event.listen(host.db.engine, "begin", lambda each: each.exec_driver_sql("BEGIN"))
        host.db.engine.dispose()
    session = host.db.session
    insert_user(session.connection(), host)
    first = pushapp.send(Message(title="first"), to="alice", connection=session.connection())
    savepoint = session.begin_nested()
    pushapp.send(Message(title="taken back"), to="alice", connection=session.connection())
    savepoint.rollback()
    session.commit()
    deliver(host.app)
    assert [push.message["notification"]["title"] for push in push_server.pushes] == ["first"]
    assert status(first).sent == 1


def test_a_scheduled_message_and_an_idempotency_key_are_part_of_it(host: Host) -> None:
    session = host.db.session
    at = datetime.now(UTC) + timedelta(hours=1)
    options: dict[str, Any] = {"to": "alice", "at": at, "idempotency_key": "order 66"}
    pushapp.send(HELLO, **options, connection=session.connection())
    session.rollback()
    message_id = pushapp.send(HELLO, **options, connection=session.connection())
    assert pushapp.send(HELLO, **options, connection=session.connection()) == message_id
    session.commit()
    assert pushapp.send(HELLO, **options) == message_id
    assert status(message_id).state == "scheduled"
    assert messages(host) == 1


@on_postgresql
def test_the_hosts_connection_is_left_as_it_was(host: Host) -> None:
    def settings() -> list[Any]:
        names = ("search_path", "timezone", "statement_timeout", "transaction_isolation")
        return [connection.execute(text(f"SHOW {name}")).scalar() for name in names]

    connection = host.db.session.connection()
    before = settings()
    pushapp.send(HELLO, to=EVERYONE, connection=connection)
    assert settings() == before


def test_another_connection_is_rejected_in_one_line(host: Host, tmp_path: Any) -> None:
    elsewhere = create_engine(f"sqlite:///{tmp_path}/other.db")
    url = make_url(host.app.config["SQLALCHEMY_DATABASE_URI"])
    beside = create_engine(
        url.set(database=f"{tmp_path}/beside.db" if url.drivername == "sqlite" else "postgres")
    )
    with elsewhere.connect() as first, beside.connect() as second:
        connections: list[Any] = [first, second, host.db.session, host.db.engine, "x"]
        for connection in connections:
            with pytest.raises(ValueError, match="connection ") as rejection:
                pushapp.send(HELLO, to="alice", connection=connection)
            assert len(str(rejection.value).splitlines()) == 1
    elsewhere.dispose()
    beside.dispose()
    assert messages(host) == 0


@on_postgresql
def test_a_driver_that_cannot_be_used_is_rejected_in_one_line(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = host.db.session.connection()
    monkeypatch.setattr(connection.dialect, "driver", "pg8000")
    with pytest.raises(ValueError, match="driver pg8000: only psycopg and psycopg2"):
        pushapp.send(HELLO, to="alice", connection=connection)


def test_a_message_is_sent_from_an_event_loop_and_from_a_thread(host: Host, push_server: PushServer) -> None:
    async def from_event_loop() -> int:
        return pushapp.send(HELLO, to="alice")

    ids = [asyncio.run(from_event_loop())]

    def from_thread() -> None:
        with host.app.app_context():
            ids.append(pushapp.send(HELLO, to="alice"))

    thread = threading.Thread(target=from_thread)
    thread.start()
    thread.join()
    deliver(host.app)
    assert [status(message_id).sent for message_id in ids] == [1, 1]
