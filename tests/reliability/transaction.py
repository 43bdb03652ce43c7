"""Orders and their messages match exactly, however often the host and PostgreSQL are killed in between.

python -m tests.reliability.transaction [--kills 20]     (needs nginx)
"""

import argparse
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from functools import partial
from pathlib import Path
from typing import IO

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from pushapp import Message, create_app, send
from pushapp.extensions import db
from tests.reliability.common import (
    Report,
    counting_push_service,
    database_server,
    require_programs,
    scalar,
    sending_site,
    start_worker,
    wait_until,
)
from tests.support.deployment import ROOT, Deployment
from tests.support.postgresql import PostgreSQL

THREADS = 4
CUSTOMERS = 50
INSERT = text("INSERT INTO orders (id, customer) VALUES (:id, :customer)")


def main() -> None:
    """Kill a host and its database in turns, then compare orders with messages and what arrived."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.transaction")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--host", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.host:
        take_orders()
    require_programs("nginx")
    report = Report()
    with database_server() as (server, folder), counting_push_service(folder) as (origin, log):
        site = sending_site(server, folder, origin, CUSTOMERS)
        url = site.environment["DATABASE_URL"]
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE orders (id text PRIMARY KEY, customer text NOT NULL)")
        acknowledged = kill_in_turns(site, server, folder / "acknowledged", options.kills)
        check_orders(url, acknowledged, options.kills, report)
        check_delivery(site, log, report)
    report.finish()


def take_orders() -> None:
    """Be the host: store orders with their messages in threads, and print the ids of what is committed."""
    app = create_app()

    def run() -> None:
        while True:
            with app.app_context():
                try:
                    take_order()
                except SQLAlchemyError:
                    db.session.rollback()
                    time.sleep(0.05)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    threads[0].join()


def take_order() -> None:
    """Store an order and its message in one transaction, which in some cases is rolled back."""
    order_id, chance = uuid.uuid4().hex, random.random()
    connection = db.session.connection()
    if chance < 0.2:
        savepoint = db.session.begin_nested()
        store(connection, uuid.uuid4().hex)
        savepoint.rollback()
    store(connection, order_id)
    if chance > 0.8:
        db.session.rollback()
        return
    db.session.commit()
    os.write(1, f"{order_id}\n".encode())


def store(connection: Connection, order_id: str) -> None:
    """Insert an order, and send its message."""
    customer = f"user {random.randrange(1, CUSTOMERS)}"
    connection.execute(INSERT, {"id": order_id, "customer": customer})
    send(Message(title=order_id), to=customer, connection=connection)


def has_grown(path: Path, size: int) -> bool:
    """Return whether a file is larger than it was."""
    return path.stat().st_size > size


def kill_in_turns(site: Deployment, server: PostgreSQL, path: Path, kills: int) -> set[str]:
    """Kill the host and PostgreSQL in turns; return the orders that the host knows to be committed."""
    with path.open("ab") as acknowledged:
        host = start_host(site, acknowledged)
        for number in range(kills):
            assert wait_until(partial(has_grown, path, path.stat().st_size), 60)
            time.sleep(random.uniform(0, 0.5))
            if number % 2:
                server.kill()
                time.sleep(random.uniform(0, 0.5))
                server.start()
            else:
                host.kill()
                host.wait()
                host = start_host(site, acknowledged)
        host.kill()
        host.wait()
    return set(path.read_text().split())


def start_host(site: Deployment, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start the host."""
    command = [sys.executable, "-m", "tests.reliability.transaction", "--host"]
    return subprocess.Popen(command, cwd=ROOT, env=site.environment, stdout=output)


def check_orders(url: str, acknowledged: set[str], kills: int, report: Report) -> None:
    """Compare what is stored with what the host knows."""
    with psycopg.connect(url) as connection:
        orders = {row[0] for row in connection.execute("SELECT id FROM orders")}
        titles = Counter(
            row[0] for row in connection.execute("SELECT message ->> 'title' FROM push_messages")
        )
    lost = acknowledged - orders
    report.guarantee(
        f"{kills} kills of host and PostgreSQL: orders committed and lost", f"{len(lost)} of {len(acknowledged):,}",
        not lost and len(acknowledged) > kills,
    )  # fmt: skip
    report.guarantee("orders without a message", len(orders - set(titles)), orders <= set(titles))
    report.guarantee("messages without an order", len(set(titles) - orders), set(titles) <= orders)
    repeated = titles.total() - len(titles)
    report.guarantee("orders with two messages", repeated, repeated == 0)


def check_delivery(site: Deployment, log: Path, report: Report) -> None:
    """Let a worker send what is stored, and compare the messages with what arrived."""
    url = site.environment["DATABASE_URL"]
    worker = start_worker(site)
    try:
        wait_until(lambda: scalar(url, "SELECT count(*) FROM push_batches") == 0, 120)
    finally:
        worker.terminate()
        worker.wait(30)
    messages = scalar(url, "SELECT count(*) FROM push_messages")
    sent = scalar(url, "SELECT sum(count)::int FROM push_outcomes WHERE outcome = 'sent'")
    report.guarantee("messages sent, once each", f"{sent:,} of {messages:,}", sent == messages)
    arrived = len(log.read_text().splitlines())
    report.guarantee("messages that arrived", f"{arrived:,}", arrived == messages)


if __name__ == "__main__":
    main()
