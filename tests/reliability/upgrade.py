"""Rolling upgrades: old and new code side by side on one database, under load, across every migration.

    python -m tests.reliability.upgrade [--rows 3000000] [--seconds 5]     (needs nginx)

The old code of a revision comes from git: it is the last state of this branch whose newest migration it was. A
revision without such a state, or whose code needs packages that are not installed, is passed over. A migration of
this program's own, after the newest, is tested with the current code on both sides.
"""

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.reliability.common import (
    Clients,
    Report,
    counting_push_service,
    database_server,
    insert_subscriptions,
    require_programs,
    scalar,
    slowest,
    start_worker,
    wait_until,
)
from tests.support.deployment import ROOT, Deployment

VERSIONS = Path("migrations") / "versions"
CODE = ("pushapp", "migrations", "wsgi.py")
MAX_LOCK_WAIT = 1.0  # seconds; PostgreSQL ends a request's statement after 1.3
RECIPIENTS = 600

TEST_REVISION = "9000"
TEST_MIGRATION = '''"""A nullable column and its index."""

import sqlalchemy as sa
from alembic import op

revision = {revision!r}
down_revision = {down_revision!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '900ms'")
    op.add_column("push_subscriptions", sa.Column("note", sa.String(255), nullable=True))
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY ix_push_subscriptions_note ON push_subscriptions (note, user_id)")
'''


class Upgrade(NamedTuple):
    """Two revisions, and the sites that belong to them."""

    before: str
    after: str
    old: Deployment
    new: Deployment

    def __str__(self) -> str:
        return f"{self.before} to {self.after}"


def main() -> None:
    """Test the migrations one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.upgrade")
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--seconds", type=float, default=5, help="of load before and after each migration")
    options = parser.parse_args()
    require_programs("nginx")
    report = Report()
    with (
        database_server("max_wal_size=4GB") as (server, folder),
        counting_push_service(folder) as (origin, log),
    ):
        url = server.create_database("upgraded")
        current = Deployment(url, folder, FLASK_PUSH_TRUSTED_PUSH_SERVICES=f'["{origin}"]')
        upgrades = plan_upgrades(current, folder)
        current.flask("db", "upgrade", upgrades[0].before)
        insert_subscriptions(
            url, options.rows, "https://push.example.net/old/", users=max(options.rows // 3, 1)
        )
        for upgrade in upgrades:
            asyncio.run(migrate_under_load(upgrade, upgrades[-1].new, options.seconds, report))
            send_from_both(upgrade, origin, log, report)
    report.finish()


def plan_upgrades(current: Deployment, folder: Path) -> list[Upgrade]:
    """Return the upgrades between the revisions that have their code, and to the test's own revision."""

    def site(root: Path) -> Deployment:
        deployment = Deployment(current.environment["DATABASE_URL"], folder, root=root)
        deployment.environment = current.environment
        return deployment

    files = sorted(file.name for file in (ROOT / VERSIONS).glob("[0-9]*.py"))
    codes = [code_of(file, files[number:], folder) for number, file in enumerate(files[:-1], 1)]
    sites = [(file[:4], site(code)) for file, code in zip(files, codes, strict=False) if code]
    newest = files[-1][:4]
    sites += [(newest, site(ROOT)), (TEST_REVISION, site(code_with_test_revision(newest, folder)))]
    return [Upgrade(before, after, old, new) for (before, old), (after, new) in pairwise(sites)]


def code_of(file: str, later: Sequence[str], folder: Path) -> Path | None:
    """Return a folder with the last code of this branch whose newest migration was `file`, if it can run."""
    paths = [str(VERSIONS / name) for name in later]
    added = git("log", "--first-parent", "-m", "--format=%H", "--diff-filter=A", "--", *paths)
    archive = git("archive", f"{added.split()[-1].decode()}^", *CODE) if added else None
    if archive is None:
        return None
    target = folder / f"code_{file[:4]}"
    target.mkdir()
    subprocess.run(["tar", "-x", "-C", target], input=archive, check=True)
    newest = max(path.name for path in (target / VERSIONS).glob("[0-9]*.py"))
    # The packages that it needs may have been replaced by others since.
    command = [sys.executable, "-c", "import pushapp.sending.worker"]
    can_run = subprocess.run(command, cwd=target, check=False, capture_output=True).returncode == 0
    return target if newest == file and can_run else None


def git(*arguments: str) -> bytes | None:
    """Return the output of git, or None when it fails: without git, its history, or a part of it."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def code_with_test_revision(newest: str, folder: Path) -> Path:
    """Return a folder with the current code and the test's migration."""
    target = folder / f"code_{TEST_REVISION}"
    target.mkdir()
    for name in CODE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    migration = TEST_MIGRATION.format(revision=TEST_REVISION, down_revision=newest)
    (target / VERSIONS / f"{TEST_REVISION}_test.py").write_text(migration)
    return target


async def migrate_under_load(upgrade: Upgrade, newest: Deployment, seconds: float, report: Report) -> None:
    """Migrate by the newest code under load on the old code, then load both."""
    old, new = upgrade.old, upgrade.new
    with ExitStack() as stack, watched_locks(old.environment["DATABASE_URL"]) as waits:
        stack.enter_context(old.gunicorn(stdout=subprocess.DEVNULL))
        on_old = Clients(old)
        await on_old.start(8)
        await asyncio.sleep(seconds)
        started_at = time.monotonic()
        await asyncio.to_thread(newest.flask, "db", "upgrade", upgrade.after)
        duration = time.monotonic() - started_at
        during = [
            response for response in on_old.responses if response.started_at + response.seconds > started_at
        ]
        # In a thread: the event loop has to serve the clients meanwhile.
        await asyncio.to_thread(stack.enter_context, new.gunicorn(stdout=subprocess.DEVNULL))
        on_new = Clients(new)
        await on_new.start(8)
        await asyncio.sleep(seconds)
        await on_old.stop()
        await on_new.stop()
    statuses = on_old.statuses(), on_new.statuses()
    report.guarantee(
        f"{upgrade}: responses of the old code and of the new are 200", tuple(map(dict, statuses)),
        all(set(counts) == {200} for counts in statuses),
    )  # fmt: skip
    longest = max(waits, default=0.0)
    report.guarantee(
        f"{upgrade}: longest wait of a request for a lock, seconds (limit {MAX_LOCK_WAIT:.0f})",
        f"{longest:.2f}", bool(waits) and longest < MAX_LOCK_WAIT,
    )  # fmt: skip
    report.figure(
        f"{upgrade}: duration of the migration, and slowest response meanwhile, seconds",
        f"{duration:.1f}, {slowest(during):.2f}",
    )


@contextmanager
def watched_locks(url: str) -> Iterator[list[float]]:
    """Watch how long requests wait for a lock on the table; yield the waits, in seconds."""
    waits: list[float] = []
    stop = threading.Event()
    # The lock modes of SELECT and of writes: the migration's own locks are stronger, and may wait.
    query = b"""SELECT extract(epoch FROM max(clock_timestamp() - waitstart)) FROM pg_locks
        WHERE NOT granted AND relation = 'push_subscriptions'::regclass
        AND mode IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')"""

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


def send_from_both(upgrade: Upgrade, origin: str, log: Path, report: Report) -> None:
    """Send a message from each code, with a worker of each running."""
    old = upgrade.old
    url = old.environment["DATABASE_URL"]
    path = re.sub(r"\W+", "-", str(upgrade))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DELETE FROM push_subscriptions WHERE user_id = 'user 0'")
    insert_subscriptions(url, RECIPIENTS, f"{origin}/{path}/", users=1)
    workers = [start_worker(site) for site in (old, upgrade.new)]
    try:
        for site in (old, upgrade.new):
            site.flask("push", "send", "user 0", "--title", "Hello", check=False)  # counted below
        wait_until(lambda: scalar(url, "SELECT count(*) FROM push_batches") == 0, 60)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait(30)
    reached = Counter(line for line in log.read_text().splitlines() if f"/{path}/" in line)
    messages = Counter(reached.values())
    report.guarantee(
        f"{upgrade}: recipients by messages received, of {RECIPIENTS} that are sent 2", dict(messages),
        messages == {2: RECIPIENTS},
    )  # fmt: skip


if __name__ == "__main__":
    main()
