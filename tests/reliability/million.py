"""A million users: the cost of a request with 3,000,000 subscriptions and with 3,000; plans and sizes.

python -m tests.reliability.million [--rows 3000000] [--rounds 200] [--plans]
"""

import argparse
import itertools
import random
import statistics
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
from flask import Flask
from sqlalchemy import event

from pushapp import EVERYONE, Message, create_app, send, subscriptions, userdata
from pushapp.database import engine, transaction
from pushapp.sending import batches, claims, failures, outbox, recording
from pushapp.sending.status import status
from pushapp.statements import FrequentStatement
from pushapp.subscriptions import Subscription
from pushapp.webpush.responses import GONE, SENT, Counted, Outcome, Result
from tests.reliability.common import KEYS, Report, database_server, scalar
from tests.support.deployment import Deployment
from tests.support.postgresql import PostgreSQL

FEW = 3_000
EXPIRED = 500
MAX_RATIO = 1.5  # far below that of a cost that grows with the table
UNIQUE_INDEX = "uq_push_subscriptions_user_id_endpoint_hash"
HASH_INDEX = "ix_push_subscriptions_endpoint_hash"
TABLES = ("push_subscriptions", "push_batches", "push_failures")  # that grow

# Endpoints as long as those of FCM, Mozilla and Apple, three per user, in random order.
SEED = """
INSERT INTO push_subscriptions (user_id, endpoint, endpoint_hash, keys_p256dh, keys_auth)
SELECT 'user ' || n %% %(users)s, endpoint, sha256(convert_to(endpoint, 'UTF8')), %(p256dh)s, %(auth)s
FROM generate_series(1, %(rows)s) n, LATERAL (SELECT CASE n %% 3
    WHEN 0 THEN 'https://fcm.googleapis.com/fcm/send/' || left(repeat(md5(n::text), 6), 152)
    WHEN 1 THEN 'https://updates.push.services.mozilla.com/wpush/v2/gAAAAA' || left(repeat(md5(n::text), 6), 180)
    ELSE 'https://web.push.apple.com/' || left(repeat(md5(n::text), 6), 100) END AS endpoint) e
ORDER BY md5(n::text)
"""

# A queue of retries, and as many failures as subscriptions: small tables would be scanned in any case.
SEED_SENDING = """
INSERT INTO push_messages (message, recipients)
SELECT '{"title": "Hello"}', 20 FROM generate_series(1, 1000);
INSERT INTO push_batches (message_id, first_id, last_id, size, due_at)
SELECT m.id, 1, 1, 1, now() + '1 day' FROM push_messages m, generate_series(1, 100);
INSERT INTO push_failures (subscription_id, failures, since)
SELECT id, 1, now() FROM push_subscriptions;
"""

# A user's browsers subscribe at different times: a range of their ids may be the whole table.
WIDEST_SPREAD = """
SELECT user_id FROM push_subscriptions GROUP BY user_id HAVING count(*) > 2 ORDER BY max(id) - min(id) DESC LIMIT 1
"""


def main() -> None:
    """Compare a large table with a small one."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.million")
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--plans", action="store_true", help="print the plan of every statement")
    options = parser.parse_args()
    report = Report()
    with database_server("max_wal_size=4GB", "autovacuum=off") as (server, folder):
        few, many = (prepare(server, folder, rows, report) for rows in (FEW, options.rows))
        if options.rounds:
            compare(few, many, options.rounds, report)
        check_plans(many, report, show=options.plans)
        for app in (few, many):
            with app.app_context():
                engine().dispose()
    report.finish()


def prepare(server: PostgreSQL, folder: Path, rows: int, report: Report) -> Flask:
    """Fill a database, print its sizes, and return an application on it."""
    site = Deployment(server.create_database(f"rows{rows}"), folder)
    url = site.environment["DATABASE_URL"]
    site.flask("db", "upgrade")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SEED, {"users": rows // 3, "rows": rows} | KEYS)
        connection.execute("VACUUM ANALYZE push_subscriptions")
    table, unique, by_hash, total = (
        scalar(url, f"SELECT {size}")
        for size in (
            "pg_relation_size('push_subscriptions')",
            f"pg_relation_size('{UNIQUE_INDEX}')",
            f"pg_relation_size('{HASH_INDEX}')",
            "pg_total_relation_size('push_subscriptions')",
        )
    )
    sizes = ", ".join(f"{size / 2**20:,.1f}" for size in (total, table, unique, by_hash))
    text = f"{rows:,} subscriptions, MiB: in all, table, unique index, hash index"
    if rows == FEW:
        report.figure(text, sizes)
    else:
        report.guarantee(
            f"{text} (each index less than half the table)", sizes, max(unique, by_hash) < table / 2
        )
    settings = {
        "SQLALCHEMY_DATABASE_URI": url,
        "SECRET_KEY": "secret",
        "PUSH_VAPID_PRIVATE_KEY": site.environment["FLASK_PUSH_VAPID_PRIVATE_KEY"],
    }
    app = create_app(settings, instance_path=str(folder))
    app.config["USERS"] = rows // 3
    return app


def operations(app: Flask) -> dict[str, Callable[[], object]]:
    """Return the measured operations: each does the same whatever the table's size."""

    def random_user() -> str:
        return f"user {random.randrange(app.config['USERS'])}"

    def subscribe() -> object:
        endpoint = f"https://push.example.net/new/{random.randbytes(80).hex()}"
        return subscriptions.save(random_user(), Subscription(endpoint, KEYS["p256dh"], KEYS["auth"]))

    def repeat() -> object:
        return subscriptions.save(
            "the repeating user", Subscription("https://push.example.net/", *KEYS.values())
        )

    def start_of_fan_out() -> object:
        message_id = send(Message(title="Hello"), to=EVERYONE)
        pending = current_scalar(f"SELECT id FROM push_batches WHERE message_id = {message_id}")
        return next(batches.fan_out(pending))

    return {
        "subscribe, a repeat": repeat,
        "subscribe, a new subscription": subscribe,
        "list": lambda: subscriptions.list_for(random_user()),
        "send to one user": lambda: send(Message(title="Hello"), to=random_user()),
        "start of a fan-out": start_of_fan_out,
        f"prune {EXPIRED} expired subscriptions": failures.prune,
    }


def current_scalar(query: str) -> Any:
    """Return the single value of a query in the current application's database."""
    with engine().connect() as connection:
        return connection.exec_driver_sql(query).scalar()


def insert_expired() -> None:
    """Insert expired subscriptions."""
    with engine().connect() as connection:
        connection.exec_driver_sql(
            "INSERT INTO push_subscriptions"
            " (user_id, endpoint, endpoint_hash, keys_p256dh, keys_auth, expires_at)"
            f" SELECT 'expiring', endpoint, sha256(convert_to(endpoint, 'UTF8')), '{KEYS['p256dh']}',"
            f" '{KEYS['auth']}', '2020-01-01' FROM generate_series(1, {EXPIRED}) n, LATERAL"
            " (SELECT 'https://push.example.net/' || n || repeat(gen_random_uuid()::text, 6) AS endpoint) e"
        )


def compare(few: Flask, many: Flask, rounds: int, report: Report) -> None:
    """Time each operation on both tables, and compare the fastest tenths.

    All of them in each round: on a busy machine another process may take the time of one operation.
    """
    apps = {"few": few, "many": many}
    seconds: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(rounds):
        for name in operations(few):
            is_prune = name.startswith("prune")
            if is_prune and number % 2:
                continue  # deleted rows stay in the table, since there is no autovacuum
            for size in random.sample(list(apps), 2):
                with apps[size].app_context():
                    operation = operations(apps[size])[name]
                    if is_prune:
                        insert_expired()
                    started_at = time.perf_counter()
                    operation()
                    seconds[name, size].append(time.perf_counter() - started_at)
    for name in operations(few):
        small, large = (statistics.quantiles(seconds[name, size], n=10)[0] for size in apps)
        report.guarantee(
            f"{name}: {small * 1e3:.2f} ms with few rows, {large * 1e3:.2f} ms with many; ratio, at most {MAX_RATIO}",
            f"{large / small:.2f}", large / small <= MAX_RATIO,
        )  # fmt: skip


def check_plans(app: Flask, report: Report, *, show: bool) -> None:
    """Have PostgreSQL explain every statement of the operations and of a worker."""
    url = app.config["SQLALCHEMY_DATABASE_URI"].set(drivername="postgresql").render_as_string(False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SEED_SENDING)
        connection.execute("VACUUM ANALYZE")
    user = scalar(url, WIDEST_SPREAD)
    with app.app_context(), recorded_statements() as statements:
        for operation in operations(app).values():
            operation()
        subscriptions.remove("user 1", "https://push.example.net/")
        subscriptions.remove_by_id("user 1", 1)
        batches.backlog()
        claims.due_batches(100)
        claims.requeue_lost(0)
        claims.next_time(1, datetime.now(UTC))
        deliver(send(Message(title="Hello"), to=user), [SENT])
        rejected = Outcome(Result.FAILED, counts_against=Counted.SUBSCRIPTION)
        deliver(send(Message(title="Hello"), to=user), [SENT, GONE, rejected])
        outbox.prune()
        failures.prune()
        userdata.export(user)
        for command in (["status"], ["why", user]):
            done = app.test_cli_runner().invoke(args=["push", *command])
            assert done.exit_code == 0, done.output
    scans = []
    with psycopg.connect(url) as connection:
        for statement, parameters in statements.items():
            plan = [row[0] for row in connection.execute(f"EXPLAIN {statement}".encode(), parameters)]
            connection.rollback()
            if any(f"Seq Scan on {table}" in line for table in TABLES for line in plan):
                scans.append(" ".join(statement.split()))
            if show:
                print(textwrap.shorten(statement, 400), *(line[:400] for line in plan), sep="\n    ")
    report.guarantee(
        f"statements with a sequential scan on {', '.join(TABLES)}, of {len(statements)}", scans or 0,
        bool(statements) and not scans,
    )  # fmt: skip


def deliver(message_id: int, results: list[Outcome]) -> None:
    """Run the statements of a worker that delivers a message to one user, with these outcomes in rotation."""
    batch_id = current_scalar(f"SELECT id FROM push_batches WHERE message_id = {message_id}")
    batch = claims.claim(batch_id, owner=1)
    assert batch is not None
    claims.renew([batch_id], 1)
    outcomes = list(zip(batch.recipients, itertools.cycle(results), strict=False))
    with transaction() as connection:
        recording.record(connection, batch, 1, recording.Report(outcomes))
    status(message_id)


@contextmanager
def recorded_statements() -> Iterator[dict[str, Any]]:
    """Yield the statements that the current application runs in the block, each with its parameters."""
    statements: dict[str, Any] = {}

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        is_query = statement.lstrip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
        if is_query:
            statements.setdefault(statement, parameters[0] if isinstance(parameters, list) else parameters)

    def execute(frequent: FrequentStatement, connection: Any, parameters: Any) -> Any:
        statements.setdefault(frequent._sql, parameters)
        return unrecorded(frequent, connection, parameters)

    unrecorded = FrequentStatement.execute
    event.listen(engine(), "before_cursor_execute", record)
    with patch.object(FrequentStatement, "execute", execute):  # the driver executes it, without an event
        yield statements
    event.remove(engine(), "before_cursor_execute", record)


if __name__ == "__main__":
    main()
