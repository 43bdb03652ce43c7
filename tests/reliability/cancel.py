"""What is counted as cancelled was never sent, and each recipient counts once, whatever is killed meanwhile.

python -m tests.reliability.cancel [--rounds 20] [--messages 20000]     (needs nginx)
"""

import argparse
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from flask import Flask

from pushapp import EVERYONE, Message, cancel, create_app, send
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
from tests.support.deployment import SECRET, Deployment

WORKERS = 2


def main() -> None:
    """Cancel messages at random moments while workers are killed, and compare counts with what arrived."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.cancel")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--messages", type=int, default=20_000)
    options = parser.parse_args()
    require_programs("nginx")
    report = Report()
    with database_server() as (server, folder), counting_push_service(folder) as (origin, log):
        site = sending_site(server, folder, origin, options.messages)
        url = site.environment["DATABASE_URL"]
        key = site.environment["FLASK_PUSH_VAPID_PRIVATE_KEY"]
        config = {"SQLALCHEMY_DATABASE_URI": url, "SECRET_KEY": SECRET, "PUSH_VAPID_PRIVATE_KEY": key}
        app = create_app(config, instance_path=str(folder))
        workers = [start_worker(site) for _ in range(WORKERS)]
        totals: Counter[str] = Counter()
        for number in range(options.rounds):
            # From the first moment of the fan-out to about the end of sending.
            moment = number / options.rounds * options.messages / 2_500
            with killed(workers, site, [random.uniform(0, moment), moment + random.uniform(0, 1)]):
                totals += cancel_at(moment, app, url, log)
        for worker in workers:
            worker.terminate()
            worker.wait(30)
    check(totals, options.rounds, report)
    report.finish()


def cancel_at(moment: float, app: Flask, url: str, log: Path) -> Counter[str]:
    """Send to everyone, cancel after `moment` seconds, and count what became of the recipients."""
    log.write_text("")
    with app.app_context():
        message_id = send(Message(title="Hello", ttl=600), to=EVERYONE)
        time.sleep(moment)
        cancel(message_id)
        is_over = wait_until(lambda: scalar(url, "SELECT count(*) FROM push_batches") == 0, 120)
    time.sleep(0.5)  # what a killed worker had sent is in the log
    reached = len(set(log.read_text().splitlines()))
    with psycopg.connect(url) as connection:
        outcomes = connection.execute(
            "SELECT outcome, sum(count)::int FROM push_outcomes WHERE message_id = %s GROUP BY outcome",
            (message_id,),
        )
        counts: Counter[str] = Counter(dict(outcomes.fetchall()))
        recipients = connection.execute("SELECT recipients FROM push_messages WHERE id = %s", (message_id,))
        (expected,) = recipients.fetchone() or (0,)
    return Counter(
        {
            "unfinished": not is_over,
            "miscounted": abs(counts.total() - expected),
            "cancelled": counts["cancelled"],
            "sent": counts["sent"],
            # Of the recipients, those who are not counted as cancelled may have been reached.
            "cancelled and sent": max(0, reached - (expected - counts["cancelled"])),
            "sent and not reached": max(0, counts["sent"] - reached),
        }
    )


@contextmanager
def killed(workers: "list[subprocess.Popen[str]]", site: Deployment, delays: list[float]) -> Iterator[None]:
    """Kill the oldest worker after each of these delays in seconds, and start another."""

    def kill() -> None:
        victim = workers.pop(0)
        victim.kill()
        victim.wait()
        workers.append(start_worker(site))

    timers = [threading.Timer(delay, kill) for delay in delays]
    for timer in timers:
        timer.start()
    yield
    for timer in timers:
        timer.join()


def check(totals: Counter[str], rounds: int, report: Report) -> None:
    """Report the sums over all rounds."""
    figures = ", ".join(f"{totals[name]:,} {name}" for name in ("sent", "cancelled"))
    report.guarantee(
        f"{rounds} messages cancelled, {2 * rounds} kills of workers", figures,
        min(totals["sent"], totals["cancelled"]) > 0,
    )  # fmt: skip
    for name in ("unfinished", "miscounted", "cancelled and sent", "sent and not reached"):
        report.guarantee(name, totals[name], totals[name] == 0)


if __name__ == "__main__":
    main()
