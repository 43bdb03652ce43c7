"""Slow is not down: a database that hangs, a locked table, no connection left, a silent push service.

python -m tests.reliability.slow [--seconds 60] [--messages 4000]
"""

import argparse
import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg

from tests.support.deployment import Deployment
from tests.support.postgresql import PostgreSQL

from .common import (
    Answer,
    Callers,
    Verdict,
    counting_push_service,
    database_server,
    put_in,
    slowest,
    start_worker,
    wait_until,
)

BOUND = 5.0  # seconds, for any request; the README states what it is made of
CALLERS = 50


def main() -> None:
    """Make everything slow that can be."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.slow")
    parser.add_argument("--seconds", type=float, default=60, help="how long each trouble lasts")
    parser.add_argument("--messages", type=int, default=4_000)
    options = parser.parse_args()
    verdict = Verdict()
    with database_server("max_connections=40") as (server, folder):
        site = Deployment(server.create_database("slow"), folder)
        site.flask("db", "upgrade")
        with site.gunicorn(stdout=subprocess.DEVNULL) as gunicorn:
            for what, trouble in (
                ("database frozen", frozen),
                ("table locked", locked),
                ("no connection left", crowded),
            ):
                with trouble(server) as end:
                    asyncio.run(go_through(site, gunicorn.pid, what, end, options.seconds, verdict))
        silent_push_service(server, folder, options.messages, verdict)
    verdict.end()


@contextlib.contextmanager
def frozen(server: PostgreSQL) -> Iterator[Callable[[], object]]:
    """A server that is stopped with all its connections open."""
    server.freeze()
    yield server.thaw
    server.thaw()


@contextlib.contextmanager
def locked(server: PostgreSQL) -> Iterator[Callable[[], object]]:
    """A table that somebody else holds."""
    with psycopg.connect(server.url("slow")) as connection:
        connection.execute("LOCK TABLE push_subscriptions IN ACCESS EXCLUSIVE MODE")
        yield connection.rollback


@contextlib.contextmanager
def crowded(server: PostgreSQL) -> Iterator[Callable[[], object]]:
    """A server whose connections are all taken by others."""
    connections: list[psycopg.Connection] = []

    def let_go() -> None:
        for connection in connections:
            connection.close()

    with psycopg.connect(server.url("slow"), autocommit=True) as killer:
        while len(connections) < 39:
            killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND application_name = '' AND pid <> pg_backend_pid()"
            )
            with contextlib.suppress(psycopg.OperationalError):
                connections.append(psycopg.connect(server.url("slow"), application_name="crowd"))
        yield let_go
        let_go()


async def go_through(
    site: Deployment,
    gunicorn: int,
    what: str,
    end: Callable[[], object],
    seconds: float,
    verdict: Verdict,
) -> None:
    """Let browsers subscribe while the trouble lasts and after it, and look how all of them fare."""
    callers = Callers(site)
    await callers.start(CALLERS)
    probes: dict[str, list[Answer]] = {"/healthz": [], "/readyz": []}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for path, answers in probes.items():
            answers.append(await callers.get(path))
        await asyncio.sleep(0.2)
    during = list(callers.answers)
    end()
    ended = time.monotonic()
    while not any(one.status == 200 and one.began > ended for one in callers.answers[len(during) :]):
        await asyncio.sleep(0.01)
    back = time.monotonic() - ended
    await asyncio.sleep(2)
    await callers.stop()
    alive = [one for one in probes["/healthz"] if one.status == 200]
    wrong = {one.status for one in during} - {503}
    verdict.promise(f"{what}: each of {len(during):,} requests gets a 503", wrong or "all", not wrong)
    late = max(slowest(during), slowest(callers.answers))
    verdict.promise(f"{what}: slowest answer, seconds (bound {BOUND:.0f})", f"{late:.2f}", late < BOUND)
    healthy = len(alive) == len(probes["/healthz"])
    # The first probe waits with everybody else until it is known that the database hangs.
    first, others = slowest(alive[:1]), slowest(alive[1:])
    verdict.promise(
        f"{what}: /healthz answers 200, slowest first and later, seconds", f"{first:.2f}, {others:.2f}",
        healthy and first < 2 and others < 2,
    )  # fmt: skip
    unready = {one.status for one in probes["/readyz"]}
    if what != "table locked":  # which readiness does not look at
        late = slowest(probes["/readyz"][1:])
        verdict.promise(
            f"{what}: /readyz says 503, slowest, seconds", f"{late:.2f}", unready == {503} and late <= 2
        )
    verdict.promise(f"{what}: back, seconds after its end", f"{back:.2f}", back < 2)
    after = [one for one in callers.answers if one.began > ended + back + 0.5]
    served = {one.status for one in after}
    verdict.promise(
        f"{what}: everybody is served then, slowest, seconds", f"{slowest(after):.2f}", served == {200}
    )
    threads = [child.num_threads() for child in psutil.Process(gunicorn).children()]
    verdict.promise(f"{what}: threads of the workers (4, and the main one)", threads, max(threads) <= 5)


def silent_push_service(server: PostgreSQL, folder: Path, messages: int, verdict: Verdict) -> None:
    """Send to everyone where half of all browsers have a push service that accepts and says nothing."""
    with (
        counting_push_service(folder) as (origin, log),
        socket.create_server(("127.0.0.1", 0), backlog=512) as silent,
    ):
        seconds = {}
        for name, endpoints in (
            ("alone", [origin]),
            ("beside", [origin, f"http://127.0.0.1:{silent.getsockname()[1]}"]),
        ):
            trusted = ", ".join(f'"{endpoint}"' for endpoint in endpoints)
            site = Deployment(
                server.create_database(name), folder, FLASK_PUSH_TRUSTED_PUSH_SERVICES=f"[{trusted}]"
            )
            site.flask("db", "upgrade")
            url = site.environment["DATABASE_URL"]
            for endpoint in endpoints:
                put_in(url, messages, f"{endpoint}/{name}/")
            with psycopg.connect(url, autocommit=True) as connection:  # in turns, so that each slice has both
                connection.execute(
                    "UPDATE push_subscriptions p SET id = -n FROM"
                    " (SELECT id, row_number() OVER (ORDER BY md5(id::text)) n FROM push_subscriptions) o"
                    " WHERE p.id = o.id"
                )
                connection.execute("UPDATE push_subscriptions SET id = -id")
            site.flask("push", "send", "--everyone", "--title", "Hello", "--ttl", "600")
            worker = start_worker(site)

            def arrived(name: str = name) -> int:
                return log.read_text().count(f"/{name}/")

            wait_until(lambda: arrived() > 0, 60)
            began = time.monotonic()
            everybody = wait_until(lambda: arrived() == messages, 120)
            seconds[name] = time.monotonic() - began
            worker.kill()
            worker.wait()
            verdict.promise(f"a push service {name}: reached", f"{arrived():,} of {messages:,}", everybody)
        extra = seconds["beside"] - seconds["alone"]
        verdict.promise(
            "a silent push service delays the others once, until its silence is noticed; by seconds",
            f"{extra:.1f}", extra < 4,
        )  # fmt: skip


if __name__ == "__main__":
    main()
