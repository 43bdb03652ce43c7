"""Push services that are silent or slow: they cost only their own messages, however many they are.

python -m tests.reliability.silent [--messages 8000] [--only '320 silent']     (needs nginx)
"""

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg

from pushapp import EVERYONE, Message, create_app, send
from tests.reliability.common import (
    KEYS,
    Report,
    counting_push_service,
    database_server,
    insert_subscriptions,
    require_programs,
    start_worker,
    wait_until,
)
from tests.support.deployment import Deployment
from tests.support.postgresql import PostgreSQL, free_port

DIRECT_MESSAGES = 20
DIRECT_LIMIT = 2.0  # seconds
SLOW_RESPONSE = 7.5  # seconds
START = 5.0  # seconds; of the worker's process, and of measuring with few messages


class Scenario(NamedTuple):
    """Recipients at other push services, and how much longer the messages may take than without these."""

    name: str
    others: int  # push services with one subscription each; 1: one with as many as there are messages
    factor: float
    delay: float | None = None  # seconds until they respond; None: never


SCENARIOS = (
    Scenario("thirty silent", 30, 1.5),
    Scenario("320 silent", 320, 1.5),
    Scenario("3,200 silent", 3_200, 3),
    Scenario("one silent, half of all", 1, 3),
    Scenario("one slow, half of all", 1, 3, SLOW_RESPONSE),
)


def main() -> None:
    """Send to everyone beside silent and slow push services."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.silent")
    parser.add_argument("--messages", type=int, default=8_000)
    parser.add_argument("--only", help="the name of one scenario")
    options = parser.parse_args()
    require_programs("nginx")
    report = Report()
    with database_server() as (server, folder), counting_push_service(folder) as (origin, log):
        undisturbed, _ = measure(server, folder, origin, log, Scenario("alone", 0, 1), options.messages)
        report.figure(f"{options.messages:,} messages alone, seconds", f"{undisturbed:.1f}")
        for scenario in SCENARIOS:
            if options.only not in (None, scenario.name):
                continue
            seconds, direct = measure(server, folder, origin, log, scenario, options.messages)
            limit = scenario.factor * max(undisturbed, START)
            report.guarantee(
                f"{scenario.name}: the others' messages, seconds (limit {limit:.1f})", f"{seconds:.1f}",
                seconds <= limit,
            )  # fmt: skip
            report.guarantee(
                f"{scenario.name}: messages to one user meanwhile, seconds, median {statistics.median(direct):.2f},"
                f" slowest (limit {DIRECT_LIMIT:.0f})",
                f"{max(direct):.2f}", max(direct) <= DIRECT_LIMIT,
            )  # fmt: skip
    report.finish()


def measure(
    server: PostgreSQL, folder: Path, origin: str, log: Path, scenario: Scenario, messages: int
) -> tuple[float, list[float]]:
    """Return the seconds until all messages to `origin` have arrived, and those of messages to one user."""
    name = f"s{scenario.others}{scenario.delay is not None}"
    with slow_push_services(scenario.others, scenario.delay) as others:
        url = server.create_database(name)
        trusted = json.dumps([origin, *others])
        site = Deployment(url, folder, FLASK_PUSH_TRUSTED_PUSH_SERVICES=trusted)
        site.flask("db", "upgrade")
        insert_subscriptions(url, messages, f"{origin}/{name}/")
        if scenario.others == 1:
            insert_subscriptions(url, messages, f"{others[0]}/{name}/")
        else:
            insert_endpoints(url, [f"{other}/{name}/1" for other in others])
        shuffle(url, name, origin)
        app = create_app(
            {
                "SQLALCHEMY_DATABASE_URI": url,
                "SECRET_KEY": "a program's secret",
                "PUSH_VAPID_PRIVATE_KEY": site.environment["FLASK_PUSH_VAPID_PRIVATE_KEY"],
                "PUSH_VAPID_SUBJECT": "mailto:webmaster@site.org",
            },
            instance_path=str(folder),
        )

        def arrived(path: str) -> int:
            return log.read_text().count(f"/{name}/{path}")

        worker = start_worker(site)
        try:
            with app.app_context():
                send(Message(title="warm up"), to="direct")  # the process has started
                assert wait_until(lambda: arrived("direct") == 1, 60)
                send(Message(title="Hello", ttl=600), to=EVERYONE)
                started_at = time.monotonic()
                direct = [send_to_one(arrived) for _ in range(DIRECT_MESSAGES)]
            total = messages + DIRECT_MESSAGES + 2
            wait_until(lambda: arrived("") >= total, 120)
            return time.monotonic() - started_at, direct
        finally:
            worker.kill()
            worker.wait()


def send_to_one(arrived: Callable[[str], int]) -> float:
    """Send a message to one user; return the seconds until it has arrived."""
    before = arrived("direct")
    started_at = time.monotonic()
    send(Message(title="direct"), to="direct")
    wait_until(lambda: arrived("direct") > before, 60)
    return time.monotonic() - started_at


def insert_endpoints(url: str, endpoints: list[str]) -> None:
    """Insert a subscription at each endpoint."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO push_subscriptions (user_id, endpoint, endpoint_hash, keys_p256dh, keys_auth)"
            " SELECT endpoint, endpoint, sha256(convert_to(endpoint, 'UTF8')), %s, %s"
            " FROM unnest(%s::text[]) endpoint",
            (KEYS["p256dh"], KEYS["auth"], endpoints),
        )


def shuffle(url: str, name: str, origin: str) -> None:
    """Put the recipients in random order, so that each batch has all push services; add that of one user."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "UPDATE push_subscriptions p SET id = -n FROM"
            " (SELECT id, row_number() OVER (ORDER BY md5(id::text)) n FROM push_subscriptions) o"
            " WHERE p.id = o.id"
        )
        connection.execute("UPDATE push_subscriptions SET id = -id")
        connection.execute("SELECT setval('push_subscriptions_id_seq', max(id)) FROM push_subscriptions")
    insert_subscriptions(url, 1, f"{origin}/{name}/direct/")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "UPDATE push_subscriptions SET user_id = 'direct' WHERE endpoint LIKE '%/direct/%'"
        )


@contextmanager
def slow_push_services(number: int, delay: float | None) -> Iterator[list[str]]:
    """Run push services on addresses of their own, that accept connections and respond late or never."""
    port = free_port()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                await asyncio.sleep(delay or 3_600)
                writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            writer.close()

    async def serve() -> None:
        await asyncio.start_server(respond, "0.0.0.0", port, backlog=4_096)
        await stop.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield [f"http://127.1.{position // 250}.{position % 250 + 1}:{port}" for position in range(number)]
    loop.call_soon_threadsafe(stop.set)
    thread.join()


if __name__ == "__main__":
    main()
