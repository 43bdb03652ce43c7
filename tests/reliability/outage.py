"""Nothing acknowledged is lost when PostgreSQL, gunicorn's workers and push workers are killed under load.

python -m tests.reliability.outage [--kills 20] [--messages 20000]     (needs nginx)
"""

import argparse
import asyncio
import random
import subprocess
import time
from collections import Counter
from functools import partial

import psutil
import psycopg

from pushapp.sending.queue import DEFAULT_CONCURRENCY
from tests.reliability.common import (
    RESPONSE_LIMIT,
    Clients,
    Report,
    counting_push_service,
    database_server,
    require_programs,
    scalar,
    sending_site,
    slowest,
    start_worker,
    wait_until,
)
from tests.support.deployment import Deployment
from tests.support.postgresql import PostgreSQL

MAX_IN_FLIGHT = DEFAULT_CONCURRENCY


def main() -> None:
    """Kill processes, and count what is lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.outage")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--messages", type=int, default=20_000)
    options = parser.parse_args()
    require_programs("nginx")
    report = Report()
    with database_server() as (server, folder):
        site = Deployment(server.create_database("subscribing"), folder)
        site.flask("db", "upgrade")
        with site.gunicorn(stdout=subprocess.DEVNULL) as gunicorn:
            asyncio.run(kill_database(site, server, gunicorn.pid, options.kills, report))
            asyncio.run(kill_gunicorn_workers(site, gunicorn.pid, options.kills, report))
        with counting_push_service(folder) as (origin, log):
            site = sending_site(server, folder, origin, options.messages)
            kills = kill_push_workers(site, options.messages)
            reached = Counter(log.read_text().splitlines())
        check_sending(site, options.messages, kills, reached, report)
    report.finish()


async def kill_database(
    site: Deployment, server: PostgreSQL, gunicorn: int, kills: int, report: Report
) -> None:
    """Kill PostgreSQL and its children repeatedly while browsers subscribe."""
    workers = {child.pid for child in psutil.Process(gunicorn).children()}
    clients = Clients(site)
    await clients.start(16)
    recoveries = []
    for _ in range(kills):
        await asyncio.sleep(random.uniform(0.3, 1))
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(random.uniform(0, 1))
        await asyncio.to_thread(server.start)
        recoveries.append(await clients.recovery_after(time.monotonic()))
    await clients.stop()
    check_subscribing(site, clients, f"{kills} kills of PostgreSQL", report)
    report.guarantee(
        f"requests succeed after the database is back, slowest recovery, seconds (limit {RESPONSE_LIMIT:.0f})",
        f"{max(recoveries):.2f}", max(recoveries) < RESPONSE_LIMIT,
    )  # fmt: skip
    same = workers == {child.pid for child in psutil.Process(gunicorn).children()}
    report.guarantee("in the same gunicorn processes", same, same)


async def kill_gunicorn_workers(site: Deployment, gunicorn: int, kills: int, report: Report) -> None:
    """Kill gunicorn's workers repeatedly while browsers subscribe."""
    clients = Clients(site)
    await clients.start(16)
    for _ in range(kills):
        await asyncio.sleep(random.uniform(0.3, 1))
        random.choice(psutil.Process(gunicorn).children()).kill()
    await asyncio.sleep(3)
    await clients.stop()
    check_subscribing(site, clients, f"{kills} kills of gunicorn's workers", report)


def check_subscribing(site: Deployment, clients: Clients, cause: str, report: Report) -> None:
    """Compare the acknowledged subscriptions with the table."""
    with psycopg.connect(site.environment["DATABASE_URL"]) as connection:
        stored = {row[0] for row in connection.execute("SELECT endpoint FROM push_subscriptions")}
    lost = clients.acknowledged - stored
    report.guarantee(
        f"{cause}: acknowledged and lost", f"{len(lost)} of {len(clients.acknowledged):,}",
        not lost and len(clients.acknowledged) > 100,
    )  # fmt: skip
    statuses = clients.statuses()
    unexpected = {status for status in statuses if status not in (200, 503) and not isinstance(status, str)}
    report.guarantee(
        f"{cause}: only 200, 503 and broken connections", dict(statuses), not unexpected and 200 in statuses
    )
    seconds = slowest(clients.responses)
    report.guarantee(
        f"{cause}: slowest response, seconds (limit {RESPONSE_LIMIT:.0f})", f"{seconds:.2f}",
        seconds < RESPONSE_LIMIT,
    )  # fmt: skip


def kill_push_workers(site: Deployment, messages: int) -> int:
    """Send to everyone while workers are killed at random; return the number of kills."""
    url = site.environment["DATABASE_URL"]
    workers = [start_worker(site) for _ in range(2)]
    site.flask("push", "send", "--everyone", "--title", "Hello", "--ttl", "600")
    kills = 0

    def sent() -> int:
        return scalar(url, "SELECT sum(count)::int FROM push_outcomes") or 0

    def has_sent(number: float) -> bool:
        return sent() >= number

    while (before := sent()) < messages * 0.8:
        # By progress, not by time: batches have to be in flight on a fast machine too.
        target = before + messages * random.uniform(0.05, 0.25)
        if not wait_until(partial(has_sent, target), 60):
            break
        victim = workers.pop(random.randrange(len(workers)))
        victim.kill()
        victim.wait()
        kills += 1
        workers.append(start_worker(site))
    wait_until(lambda: scalar(url, "SELECT count(*) FROM push_batches") == 0, 120)
    for worker in workers:
        worker.terminate()
        worker.wait(30)
    return kills


def check_sending(site: Deployment, messages: int, kills: int, reached: Counter[str], report: Report) -> None:
    """Compare the messages that arrived with those that were sent."""
    report.guarantee(
        f"{kills} kills of push workers: recipients reached", f"{len(reached):,} of {messages:,}",
        len(reached) == messages and kills > 0,
    )  # fmt: skip
    duplicates = sum(number - 1 for number in reached.values())
    limit = kills * MAX_IN_FLIGHT
    report.guarantee(
        f"duplicates, of at most {limit:,} messages in flight at the kills", duplicates, duplicates <= limit
    )
    recorded = scalar(site.environment["DATABASE_URL"], "SELECT sum(count)::int FROM push_outcomes")
    report.guarantee("outcomes recorded, one per recipient", f"{recorded:,}", recorded == messages)


if __name__ == "__main__":
    main()
