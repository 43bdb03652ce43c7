"""Nothing acknowledged is lost: PostgreSQL, gunicorn's workers and ours are killed while they work.

python -m tests.reliability.outage [--kills 20] [--messages 20000]
"""

import argparse
import asyncio
import random
import subprocess
import time
from collections import Counter

import psutil
import psycopg

from tests.support.deployment import Deployment
from tests.support.postgresql import PostgreSQL

from .common import (
    Callers,
    Verdict,
    counting_push_service,
    database_server,
    put_in,
    scalar,
    slowest,
    start_worker,
    wait_until,
)

SLICES_IN_HAND = 2 * 250


def main() -> None:
    """Kill, and count."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.outage")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--messages", type=int, default=20_000)
    options = parser.parse_args()
    verdict = Verdict()
    with database_server() as (server, folder):
        site = Deployment(server.create_database("subscribing"), folder)
        site.flask("db", "upgrade")
        with site.gunicorn(stdout=subprocess.DEVNULL) as gunicorn:
            asyncio.run(kill_the_database(site, server, gunicorn.pid, options.kills, verdict))
            asyncio.run(kill_gunicorns_workers(site, gunicorn.pid, options.kills, verdict))
        with counting_push_service(folder) as (origin, log):
            trusted = {"FLASK_PUSH_TRUSTED_PUSH_SERVICES": f'["{origin}"]'}
            site = Deployment(server.create_database("sending"), folder, **trusted)
            site.flask("db", "upgrade")
            put_in(site.environment["DATABASE_URL"], options.messages, f"{origin}/")
            kills = kill_workers(site, options.messages)
            reached = Counter(log.read_text().splitlines())
        judge_sending(site, options.messages, kills, reached, verdict)
    verdict.end()


async def kill_the_database(
    site: Deployment, server: PostgreSQL, gunicorn: int, kills: int, verdict: Verdict
) -> None:
    """Kill PostgreSQL and its children again and again while browsers subscribe."""
    workers = {child.pid for child in psutil.Process(gunicorn).children()}
    callers = Callers(site)
    await callers.start(16)
    back_after = []
    for _ in range(kills):
        await asyncio.sleep(random.uniform(0.3, 1))
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(random.uniform(0, 1))
        await asyncio.to_thread(server.start)
        up, seen = time.monotonic(), len(callers.answers)
        while not any(one.status == 200 and one.began > up for one in callers.answers[seen:]):
            await asyncio.sleep(0.01)
        back_after.append(time.monotonic() - up)
    await callers.stop()
    judge_subscribing(site, callers, f"{kills} kills of PostgreSQL", verdict)
    verdict.promise(
        "service is back, seconds after the database", f"{max(back_after):.2f}", max(back_after) < 2
    )
    same = workers == {child.pid for child in psutil.Process(gunicorn).children()}
    verdict.promise("with the same processes", same, same)


async def kill_gunicorns_workers(site: Deployment, gunicorn: int, kills: int, verdict: Verdict) -> None:
    """Kill one of gunicorn's workers again and again while browsers subscribe."""
    callers = Callers(site)
    await callers.start(16)
    for _ in range(kills):
        await asyncio.sleep(random.uniform(0.3, 1))
        random.choice(psutil.Process(gunicorn).children()).kill()
    await asyncio.sleep(3)
    await callers.stop()
    judge_subscribing(site, callers, f"{kills} kills of gunicorn's workers", verdict)


def judge_subscribing(site: Deployment, callers: Callers, what: str, verdict: Verdict) -> None:
    """Compare what browsers were told with what is in the table."""
    with psycopg.connect(site.environment["DATABASE_URL"]) as connection:
        kept = {row[0] for row in connection.execute("SELECT endpoint FROM push_subscriptions")}
    lost = callers.acknowledged - kept
    verdict.promise(
        f"acknowledged and lost, {what}", f"{len(lost)} of {len(callers.acknowledged):,}",
        not lost and len(callers.acknowledged) > 100,
    )  # fmt: skip
    statuses = callers.statuses()
    others = {one for one in statuses if one not in (200, 503) and not isinstance(one, str)}
    verdict.promise("200, 503 or broken off, nothing else", dict(statuses), not others)
    late = slowest(callers.answers)
    verdict.promise("slowest answer, seconds", f"{late:.2f}", late < 5)


def kill_workers(site: Deployment, messages: int) -> int:
    """Send to everyone while workers are killed at random; return how many were."""
    url = site.environment["DATABASE_URL"]
    workers = [start_worker(site) for _ in range(2)]
    site.flask("push", "send", "--everyone", "--title", "Hello", "--ttl", "600")
    kills = 0

    def sent() -> int:
        return scalar(url, "SELECT sum(count)::int FROM push_outcomes") or 0

    wait_until(lambda: sent() > 0, 60)
    while sent() < messages * 0.8:
        time.sleep(random.uniform(0.5, 1.5))
        victim = workers.pop(random.randrange(len(workers)))
        victim.kill()
        victim.wait()
        kills += 1
        workers.append(start_worker(site))
        before = sent()
        wait_until(lambda before=before: sent() > before, 60)  # type: ignore[misc]
    wait_until(lambda: scalar(url, "SELECT count(*) FROM push_batches") == 0, 120)
    for worker in workers:
        worker.terminate()
        worker.wait(30)
    return kills


def judge_sending(
    site: Deployment, messages: int, kills: int, reached: Counter[str], verdict: Verdict
) -> None:
    """Compare what arrived with what was to be sent."""
    twice = sum(number - 1 for number in reached.values())
    verdict.promise(
        f"reached, {kills} kills of workers",
        f"{len(reached):,} of {messages:,}",
        len(reached) == messages and kills > 0,
    )
    most = kills * SLICES_IN_HAND
    verdict.promise(f"reached twice, of at most {most} that were in hand", twice, twice <= most)
    recorded = scalar(site.environment["DATABASE_URL"], "SELECT sum(count)::int FROM push_outcomes")
    verdict.promise("recorded once each", f"{recorded:,}", recorded == messages)


if __name__ == "__main__":
    main()
