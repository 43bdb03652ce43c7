"""Recipients of an audience are found by an index, in a table with many others. On PostgreSQL."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask
from sqlalchemy import Connection, event, text

import pushapp
from pushapp import EVERYONE, Channel, Device, Message, create_app
from pushapp.database import engine, transaction
from pushapp.sending import batches, recipients
from pushapp.sending.audience import Audience
from pushapp.sending.status import status
from tests.conftest import SETTINGS, migrate
from tests.support.postgresql import PostgreSQL

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)
SUBSCRIPTIONS = 200_000  # of half as many users
USERS = [f"user {number}" for number in range(0, 100_000, 10)]
FILL = f"""
    INSERT INTO push_subscriptions (user_id, endpoint, endpoint_hash, keys_p256dh, keys_auth)
    SELECT 'user ' || n / 2, 'https://push.example.net/' || repeat('x', 150) || n, sha256(n::text::bytea),
        repeat('k', 87), repeat('a', 22) FROM generate_series(0, {SUBSCRIPTIONS - 1}) n;
    INSERT INTO push_channel_members SELECT 'small', 'user ' || n * 7000 FROM generate_series(0, 9) n;
    INSERT INTO push_channel_members SELECT 'large', 'user ' || n FROM generate_series(0, 99000) n;
    INSERT INTO push_channel_members SELECT 'other ' || n % 50, 'user ' || n FROM generate_series(0, 99999) n;
    INSERT INTO push_failures SELECT n, 1, now() FROM generate_series(1, 50000) n;
    ANALYZE;
"""


@pytest.fixture(scope="module")
def app(server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    folder: Path = tmp_path_factory.mktemp("recipients")
    url = server.create_database("recipients")
    migrate(url, folder)
    app = create_app(SETTINGS | {"SQLALCHEMY_DATABASE_URI": url}, instance_path=str(folder))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FILL.encode())
    with app.app_context():
        yield app
        engine().dispose()


class Plans:
    """Explains each query, before it is executed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def explain(self, _connection: Any, cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE")):
            plan = cursor.connection.execute(f"EXPLAIN {statement}", parameters)
            self.lines += [line for (line,) in plan]

    @property
    def scans(self) -> list[str]:
        """The sequential scans of tables that may be large."""
        large = ("push_subscriptions", "push_channel_members", "push_failures")
        return [
            line.strip()
            for line in self.lines
            if "Seq Scan on" in line and any(name in line for name in large)
        ]


@pytest.fixture
def plans(app: Flask) -> Iterator[Plans]:
    plans = Plans()
    event.listen(engine(), "before_cursor_execute", plans.explain)
    yield plans
    event.remove(engine(), "before_cursor_execute", plans.explain)


def all_parts(audience: Audience, limit: int = 1_000) -> list[list[dict[str, Any]]]:
    parts: list[list[dict[str, Any]]] = []
    position: recipients.Position | None = recipients.BEGINNING
    with transaction() as connection:
        while position is not None and len(parts) < limit:
            part = recipients.next_part(connection, audience, NOW, position)
            parts.append(part.batches)
            position = part.next
    return parts


def load(connection: Connection, audience: Audience, batch: dict[str, Any]) -> Sequence[Any]:
    ids = batch["subscription_ids"]
    first_id, last_id = batch["first_id"], batch["last_id"]
    return recipients.load(connection, audience, NOW, first_id=first_id, last_id=last_id, ids=ids)


@pytest.mark.parametrize(
    ("to", "size"),
    [(USERS, 20_000), (USERS[0], 2), (Channel("small"), 20), (Channel("none"), 0), (Device(77), 1)],
    ids=["users", "user", "small channel", "empty channel", "device"],
)
def test_recipients_are_found_by_an_index(plans: Plans, to: Any, size: int) -> None:
    audience = Audience.of(to)
    found = [batch for part in all_parts(audience) for batch in part]
    assert sum(batch["size"] for batch in found) == size
    with transaction() as connection:
        for batch in found[:3]:
            assert len(load(connection, audience, batch)) == batch["size"]
    assert plans.scans == []


@pytest.mark.parametrize("to", [EVERYONE, Channel("large")], ids=["everyone", "large channel"])
def test_parts_of_a_large_audience_are_small_and_found_by_an_index(plans: Plans, to: Any) -> None:
    audience = Audience.of(to, exclude=USERS)
    parts = all_parts(audience, 3)
    assert all(0 < sum(batch["size"] for batch in part) <= 5_000 for part in parts)
    with transaction() as connection:
        batch = parts[2][0]
        load(connection, audience, batch)
    assert plans.scans == []


def test_ten_thousand_users_are_one_short_transaction(app: Flask) -> None:
    times = []
    for _ in range(5):
        started_at = time.perf_counter()
        message_id = pushapp.send(Message(title="x"), to=USERS)
        times.append(time.perf_counter() - started_at)
    assert min(times) <= 0.3, times
    with engine().connect() as connection:
        found = connection.execute(
            text("SELECT count(*), sum(size) FROM push_batches WHERE message_id = :id"), {"id": message_id}
        )
        assert found.one() == (20_000 / recipients.BATCH_SIZE, 20_000)


def test_a_large_channel_is_fanned_out_to_each_member_once(app: Flask) -> None:
    message_id = pushapp.send(Message(title="x"), to=Channel("large"), exclude=["user 5"])
    with engine().connect() as connection:
        pending = connection.execute(
            text("SELECT id FROM push_batches WHERE message_id = :id"), {"id": message_id}
        ).scalar_one()
    for _ in batches.fan_out(pending):
        pass
    with engine().connect() as connection:
        ids = [
            each
            for (found,) in connection.execute(
                text("SELECT subscription_ids FROM push_batches WHERE message_id = :id"), {"id": message_id}
            )
            for each in found
        ]
    assert len(ids) == len(set(ids)) == 2 * 99_000
    assert status(message_id).recipients == 198_000
