"""A rolling deploy across every migration: old and new code side by side on one database, under load.

    python -m tests.reliability.upgrade [--rows 3000000] [--seconds 5]     (needs git and the whole history)

The code of a revision is the last commit before the next one came.
"""

import argparse
import asyncio
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import psycopg

from tests.support.deployment import ROOT, Deployment

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

VERSIONS = "migrations/versions"
LONGEST_LOCK = 1.0  # seconds
SENT_TO = 600  # subscriptions of the user who is sent to


def main() -> None:
    """Go from each revision to the next."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.upgrade")
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--seconds", type=float, default=5, help="of load before and after each step")
    options = parser.parse_args()
    verdict = Verdict()
    revisions = sorted(path.name[:4] for path in (ROOT / VERSIONS).glob("[0-9]*.py"))
    with (
        database_server("max_wal_size=4GB") as (server, folder),
        counting_push_service(folder) as (origin, log),
    ):
        url = server.create_database("upgraded")
        trusted = {"FLASK_PUSH_TRUSTED_PUSH_SERVICES": f'["{origin}"]'}
        sites = {one: Deployment(url, folder, root=code_of(one, folder), **trusted) for one in revisions}
        for site in sites.values():
            site.environment = sites[revisions[0]].environment
        sites[revisions[0]].flask("db", "upgrade", revisions[0])
        put_in(url, options.rows, "https://push.example.net/old/", users=max(options.rows // 3, 1))
        for before, after in pairwise(revisions):
            asyncio.run(step(sites[before], sites[after], before, after, options.seconds, verdict))
            if before >= "0002":
                send_from_both(sites[before], sites[after], f"{before} and {after}", origin, log, verdict)
    verdict.end()


def code_of(revision: str, folder: Path) -> Path:
    """Return a folder with the last code that had this revision as its newest."""
    own, following = (
        git("log", "--format=%H", "--diff-filter=A", "--", f"{VERSIONS}/{int(revision) + more:04}_*.py")
        for more in (0, 1)
    )
    if following in ("", own):  # nothing has come after it, or nothing but what came together with it
        return ROOT
    target = folder / f"code{revision}"
    target.mkdir()
    archive = subprocess.run(
        ["git", "archive", f"{following.strip()}^"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", target], input=archive, check=True)
    return target


def git(*arguments: str) -> str:
    """Return what git prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


async def step(
    old: Deployment, new: Deployment, before: str, after: str, seconds: float, verdict: Verdict
) -> None:
    """Migrate under the old code's load, let both codes serve, and stop the old."""
    name = f"{before} to {after}"
    with ExitStack() as stack:
        stack.enter_context(old.gunicorn(stdout=subprocess.DEVNULL))
        with watched_locks(old.environment["DATABASE_URL"]) as waits:
            on_old = Callers(old)
            await on_old.start(8)
            await asyncio.sleep(seconds)
            began = time.monotonic()
            await asyncio.to_thread(new.flask, "db", "upgrade", after)
            took = time.monotonic() - began
            during = [one for one in on_old.answers if one.began + one.seconds > began]
            if new.root != old.root:
                stack.enter_context(new.gunicorn(stdout=subprocess.DEVNULL))
            on_new = Callers(new if new.root != old.root else old)
            await on_new.start(8)
            await asyncio.sleep(seconds)
            await on_old.stop()
            await on_new.stop()
    statuses = on_old.statuses() + on_new.statuses()
    verdict.promise(
        f"{name}: answers of old and new code side by side", dict(statuses), set(statuses) == {200}
    )
    longest = max(waits, default=0.0)
    verdict.promise(
        f"{name}: longest wait for a lock on the table, seconds (migrated in {took:.1f} s,"
        f" slowest answer meanwhile {slowest(during):.2f} s)", f"{longest:.2f}", longest < LONGEST_LOCK,
    )  # fmt: skip


@contextmanager
def watched_locks(url: str) -> Iterator[list[float]]:
    """Watch how long anybody waits for a lock on the table; yields the waits, in seconds."""
    waits: list[float] = []
    stop = threading.Event()
    query = b"""SELECT extract(epoch FROM max(clock_timestamp() - waitstart)) FROM pg_locks
        WHERE NOT granted AND relation = 'push_subscriptions'::regclass"""

    def watch() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not stop.wait(0.02):
                row = connection.execute(query).fetchone()
                waits.append(float(row[0] or 0) if row else 0.0)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield waits
    finally:
        stop.set()
        thread.join()


def send_from_both(
    old: Deployment, new: Deployment, name: str, origin: str, log: Path, verdict: Verdict
) -> None:
    """Send from both codes while workers of both work."""
    url = old.environment["DATABASE_URL"]
    name_in_path = re.sub(r"\W+", "-", name)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DELETE FROM push_subscriptions WHERE user_id = 'user 0'")
    put_in(url, SENT_TO, f"{origin}/{name_in_path}/", users=1)
    workers = [start_worker(site) for site in (old, new)]
    try:
        for site in (old, new):
            site.flask("push", "send", "user 0", "--title", "Hello")
        done = "SELECT count(*) FROM push_batches"
        wait_until(lambda: scalar(url, done) == 0, 60)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait(30)
    reached = Counter(line for line in log.read_text().splitlines() if f"/{name_in_path}/" in line)
    often = Counter(reached.values())
    verdict.promise(
        f"{name} send: each of {SENT_TO} browsers reached so often", dict(often), often == {2: SENT_TO}
    )


if __name__ == "__main__":
    main()
