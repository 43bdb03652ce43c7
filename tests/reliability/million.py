"""A million users: what a request costs on 3,000,000 subscriptions, and on 3,000; plans and sizes.

python -m tests.reliability.million [--rows 3000000] [--rounds 200] [--plans]
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from flask import Flask
from sqlalchemy import event

from pushapp import EVERYONE, Message, create_app, outbox, send, subscriptions
from pushapp.database import transaction
from pushapp.extensions import db
from pushapp.subscriptions import Subscription
from pushapp.webpush.responses import GONE, SENT, Outcome, Result
from tests.support.deployment import Deployment
from tests.support.postgresql import PostgreSQL

from .common import KEYS, Verdict, database_server, scalar

FEW = 3_000
EXPIRED = 500
LIMIT = 1.2
INDEX = "uq_push_subscriptions_user_id_endpoint"

# As long as those of FCM, Mozilla and Apple, three to a user, in no order.
SEED = """
INSERT INTO push_subscriptions (user_id, endpoint, keys_p256dh, keys_auth)
SELECT 'user ' || n %% %(users)s, CASE n %% 3
    WHEN 0 THEN 'https://fcm.googleapis.com/fcm/send/' || left(repeat(md5(n::text), 6), 152)
    WHEN 1 THEN 'https://updates.push.services.mozilla.com/wpush/v2/gAAAAA' || left(repeat(md5(n::text), 6), 180)
    ELSE 'https://web.push.apple.com/' || left(repeat(md5(n::text), 6), 100) END, %(p256dh)s, %(auth)s
FROM generate_series(1, %(rows)s) n ORDER BY md5(n::text)
"""


def main() -> None:
    """Compare a large table with a small one."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.million")
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--plans", action="store_true", help="print the plan of every statement")
    options = parser.parse_args()
    verdict = Verdict()
    with database_server("max_wal_size=4GB", "autovacuum=off") as (server, folder):
        few, many = (prepare(server, folder, rows, verdict) for rows in (FEW, options.rows))
        if options.rounds:
            compare(few, many, options.rounds, verdict)
        look_at_plans(many, verdict, show=options.plans)
        for app in (few, many):
            with app.app_context():
                db.engine.dispose()
    verdict.end()


def prepare(server: PostgreSQL, folder: Path, rows: int, verdict: Verdict) -> Flask:
    """Fill a database with the schema of before, bring it to the newest, and return an application on it."""
    site = Deployment(server.create_database(f"rows{rows}"), folder)
    url = site.environment["DATABASE_URL"]
    site.flask("db", "upgrade", "0002")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SEED, {"users": rows // 3, "rows": rows} | KEYS)
        connection.execute("VACUUM ANALYZE push_subscriptions")
    before = scalar(url, f"SELECT pg_relation_size('{INDEX}')")
    began = time.monotonic()
    site.flask("db", "upgrade")
    seconds = time.monotonic() - began
    table, after, total = (
        scalar(url, f"SELECT {size}")
        for size in (
            "pg_relation_size('push_subscriptions')",
            f"pg_relation_size('{INDEX}_digest')",
            "pg_total_relation_size('push_subscriptions')",
        )
    )
    sizes = ", ".join(f"{size / 2**20:,.0f}" for size in (total, table, before, after))
    verdict.promise(
        f"{rows:,} rows: MiB in all, of the rows, of the unique index before and after"
        f" (migrated in {seconds:.0f} s)", sizes, rows == FEW or after < table / 2,
    )  # fmt: skip
    settings = {
        "SQLALCHEMY_DATABASE_URI": url,
        "SECRET_KEY": "secret",
        "PUSH_VAPID_PRIVATE_KEY": site.environment["FLASK_PUSH_VAPID_PRIVATE_KEY"],
    }
    app = create_app(settings, instance_path=str(folder))
    app.config["USERS"] = rows // 3
    return app


def operations(app: Flask) -> dict[str, Callable[[], object]]:
    """Return what is measured: each a call that does the same whatever the table's size."""

    def somebody() -> str:
        return f"user {random.randrange(app.config['USERS'])}"

    def new() -> object:
        endpoint = f"https://push.example.net/new/{random.randbytes(80).hex()}"
        return subscriptions.save(somebody(), Subscription(endpoint, KEYS["p256dh"], KEYS["auth"]))

    def repeat() -> object:
        return subscriptions.save(
            "the repeating user", Subscription("https://push.example.net/", *KEYS.values())
        )

    def send_to_one() -> object:
        return send(Message(title="Hello"), to=somebody())

    def start_of_fan_out() -> object:
        id = send(Message(title="Hello"), to=EVERYONE)
        uncut = scalar_in(f"SELECT id FROM push_batches WHERE message_id = {id}")
        return next(batches.fan_out(uncut))

    def prune() -> object:
        return subscriptions.prune()

    return {
        "subscribe, a repeat": repeat,
        "subscribe, a new one": new,
        "list": lambda: subscriptions.list_for(somebody()),
        "send to one user": send_to_one,
        "start of a fan-out": start_of_fan_out,
        f"prune {EXPIRED} that have expired": prune,
    }


def scalar_in(query: str) -> Any:
    """Return the one value that a query gives in the current application's database."""
    with db.engine.connect() as connection:
        return connection.exec_driver_sql(query).scalar()


def expire() -> None:
    """Let the newest subscriptions expire."""
    with db.engine.connect() as connection:
        connection.exec_driver_sql(
            "INSERT INTO push_subscriptions (user_id, endpoint, keys_p256dh, keys_auth, expires_at)"
            " SELECT 'expiring', 'https://push.example.net/' || repeat(gen_random_uuid()::text, 6),"
            f" '{KEYS['p256dh']}', '{KEYS['auth']}', '2020-01-01' FROM generate_series(1, {EXPIRED})"
        )


def compare(few: Flask, many: Flask, rounds: int, verdict: Verdict) -> None:
    """Time each operation on both tables in turns; the figures are medians."""
    for name in operations(few):
        seconds: dict[str, list[float]] = {"few": [], "many": []}
        for turn in range(rounds if "prune" not in name else max(rounds // 5, 5)):
            for size, app in (("few", few), ("many", many)) if turn % 2 else (("many", many), ("few", few)):
                with app.app_context():
                    operation = operations(app)[name]
                    if "prune" in name:
                        expire()
                    began = time.perf_counter()
                    operation()
                    seconds[size].append(time.perf_counter() - began)
        small, large = (statistics.median(seconds[size]) for size in ("few", "many"))
        verdict.promise(
            f"{name}: {small * 1e3:.2f} ms on few rows, {large * 1e3:.2f} ms on many, ratio (at most {LIMIT})",
            f"{large / small:.2f}", large / small <= LIMIT,
        )  # fmt: skip


def deliver_to(app: Flask, message_id: int) -> None:
    """Ask all that a worker asks for a message to one user."""
    slice = batches.load_batch(scalar_in(f"SELECT id FROM push_batches WHERE message_id = {message_id}"))
    assert slice is not None
    results = [SENT, GONE, Outcome(Result.FAILED, is_subscription_error=True)]
    outcomes = [results[number % 3] for number in range(len(slice.recipients))]
    with transaction() as connection:
        batches.record_outcomes(connection, slice, outcomes, slice.created_at)
    outbox.status(message_id)


def look_at_plans(app: Flask, verdict: Verdict, *, show: bool) -> None:
    """Have PostgreSQL explain every statement that the operations run."""
    statements: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        statements.setdefault(statement, parameters[0] if isinstance(parameters, list) else parameters)

    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", note)
        for operation in operations(app).values():
            operation()
        subscriptions.remove("user 1", "https://push.example.net/")
        subscriptions.remove_by_id("user 1", 1)
        batches.backlog()
        deliver_to(app, send(Message(title="Hello"), to="user 1"))
        outbox.prune()
        event.remove(db.engine, "before_cursor_execute", note)
        sequential = []
        with psycopg.connect(
            app.config["SQLALCHEMY_DATABASE_URI"].set(drivername="postgresql").render_as_string(False)
        ) as connection:
            for statement, parameters in statements.items():
                if (
                    not statement.lstrip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
                    or "procrastinate" in statement
                ):
                    continue
                plan = connection.execute(f"EXPLAIN {statement}".encode(), parameters).fetchall()
                lines = [row[0] for row in plan]
                if any("Seq Scan on push_subscriptions" in line for line in lines):
                    sequential.append(statement)
                if show:
                    print("\n" + " ".join(statement.split()) + "\n    " + "\n    ".join(lines))
                connection.rollback()
    verdict.promise(
        f"statements with a sequential scan, of {len(statements)}", sequential or 0, not sequential
    )


if __name__ == "__main__":
    main()
