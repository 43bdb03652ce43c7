"""The database's ceiling: PostgreSQL's CPU for a message to everyone, with push services that cost nothing.

    python -m tests.bench.database [--messages 1000000]

Inserts subscriptions, queues a message to everyone, and runs a worker whose client only says that a message is
sent. PostgreSQL's CPU, the fan-out, its writers and its autovacuum included, is then all that a message costs it.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from typing import Any
from unittest.mock import patch

import psutil
import psycopg

from pushapp import create_app
from pushapp.sending import delivery
from pushapp.sending.worker import run_worker
from pushapp.webpush.client import Client
from pushapp.webpush.responses import SENT, Outcome
from tests.bench.send import FLASK, finish, insert_subscriptions, settings
from tests.reliability.common import database_server
from tests.support.postgresql import PostgreSQL
from tests.support.subscriptions import subscription

ORIGIN = "https://push.example.com"


class CostlessClient(Client):
    """Says that each message is sent, without encryption or connection."""

    async def push(self, *_arguments: Any, **_options: Any) -> Outcome:
        """Return that the message is sent."""
        return SENT


def main() -> None:
    """Run the benchmark, or its worker, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.database")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        with patch.object(delivery, "Client", CostlessClient):
            asyncio.run(run_worker(create_app(), drain=True))
    else:
        measure(options.messages)


def measure(messages: int) -> None:
    """Send a message to everyone, and print what it cost."""
    with database_server() as (server, _):
        environment = settings(server.create_database("ceiling"), ORIGIN)
        one = [subscription(endpoint=f"{ORIGIN}/")]
        insert_subscriptions(environment["DATABASE_URL"], one, messages)
        command = [*FLASK, "push", "send", "--everyone", "--title", "Hello", "--body", "x" * 200]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        before, started_at = cpu(server), time.monotonic()
        worker = finish(
            subprocess.Popen(
                [sys.executable, "-m", "tests.bench.database", "--worker"],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        seconds, used = time.monotonic() - started_at, cpu(server) - before
        with psycopg.connect(environment["DATABASE_URL"]) as connection:
            sent = connection.execute("SELECT sum(count)::int FROM push_outcomes WHERE outcome = 'sent'")
            assert sent.fetchone() == (messages,), worker.stderr[-1_500:]
    print(f"{messages:,} messages in {seconds:.0f} s; the sender's peak: {worker.peak:.0f} MiB")
    print(f"  PostgreSQL {used / messages * 1e6:8.1f} µs of CPU a message")
    print(f"  the sender {worker.cpu / messages * 1e6:8.1f} µs of CPU a message, without a push service")
    print(f"  a core of PostgreSQL feeds {messages / used:,.0f} messages/s")


def cpu(server: PostgreSQL) -> float:
    """Return the seconds of CPU that a server and its children have used, those that have ended included."""
    parent = psutil.Process(server.process.pid)
    times = parent.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in parent.children(recursive=True):
        child_times = child.cpu_times()
        total += child_times.user + child_times.system
    return float(total)


if __name__ == "__main__":
    main()
