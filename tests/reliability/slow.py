"""A slow database: one that hangs, a locked table, no free connection.

python -m tests.reliability.slow [--seconds 60]
"""

import argparse
import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator

import psutil
import psycopg

from tests.reliability.common import (
    RECOVERY_TIMEOUT,
    RESPONSE_LIMIT,
    Clients,
    Report,
    Response,
    database_server,
    slowest,
)
from tests.support.deployment import Deployment
from tests.support.postgresql import PostgreSQL

CLIENTS = 50
MAX_CONNECTIONS = 40  # of the server
LOCKED_TABLE = "locked table"


def main() -> None:
    """Slow each dependency down."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.slow")
    parser.add_argument("--seconds", type=float, default=60, help="duration of each outage")
    options = parser.parse_args()
    report = Report()
    with database_server(f"max_connections={MAX_CONNECTIONS}") as (server, folder):
        site = Deployment(server.create_database("slow"), folder)
        site.flask("db", "upgrade")
        with site.gunicorn(stdout=subprocess.DEVNULL) as gunicorn:
            for cause, outage in (
                ("hanging database", hanging_database),
                (LOCKED_TABLE, locked_table),
                ("no free connection", no_free_connection),
            ):
                with outage(server) as end:
                    asyncio.run(
                        test_outage(site, gunicorn.pid, cause, end, seconds=options.seconds, report=report)
                    )
    report.finish()


@contextlib.contextmanager
def hanging_database(server: PostgreSQL) -> Iterator[Callable[[], object]]:
    """Stop the server's processes, with all connections open."""
    server.freeze()
    yield server.thaw
    server.thaw()


@contextlib.contextmanager
def locked_table(server: PostgreSQL) -> Iterator[Callable[[], object]]:
    """Lock the table in another transaction."""
    with psycopg.connect(server.url("slow")) as connection:
        connection.execute("LOCK TABLE push_subscriptions IN ACCESS EXCLUSIVE MODE")
        yield connection.rollback


@contextlib.contextmanager
def no_free_connection(server: PostgreSQL) -> Iterator[Callable[[], object]]:
    """Occupy all connections of the server."""
    connections: list[psycopg.Connection] = []

    def close_all() -> None:
        for connection in connections:
            connection.close()

    with psycopg.connect(server.url("slow"), autocommit=True) as killer:
        while len(connections) < MAX_CONNECTIONS - 1:
            killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND application_name = '' AND pid <> pg_backend_pid()"
            )
            with contextlib.suppress(psycopg.OperationalError):
                connections.append(psycopg.connect(server.url("slow"), application_name="crowd"))
        yield close_all
        close_all()


async def test_outage(
    site: Deployment, gunicorn: int, cause: str, end: Callable[[], object], *, seconds: float, report: Report
) -> None:
    """Let browsers subscribe during an outage and after it, and check their responses."""
    clients = Clients(site)
    await clients.start(CLIENTS)
    probes: dict[str, list[Response]] = {"/healthz": [], "/readyz": []}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for path, responses in probes.items():
            responses.append(await clients.get(path))
        await asyncio.sleep(0.2)
    during = list(clients.responses)
    end()
    ended_at = time.monotonic()
    recovery = await clients.recovery_after(ended_at)
    await asyncio.sleep(2)
    await clients.stop()
    check_responses(cause, during, clients.responses, report)
    check_probes(cause, probes, report)
    report.guarantee(
        f"{cause}: requests succeed after its end, seconds (limit {RESPONSE_LIMIT:.0f})",
        f"{recovery:.2f}", recovery < RESPONSE_LIMIT,
    )  # fmt: skip
    after = [
        response
        for response in clients.responses
        if response.started_at > ended_at + min(recovery, RECOVERY_TIMEOUT) + 0.5
    ]
    statuses = {response.status for response in after}
    report.guarantee(f"{cause}: statuses of {len(after):,} requests after that", statuses, statuses == {200})
    threads = [child.num_threads() for child in psutil.Process(gunicorn).children()]
    report.guarantee(
        f"{cause}: threads of gunicorn's workers (4 and the main thread)", threads, max(threads) <= 5
    )


def check_responses(cause: str, during: list[Response], responses: list[Response], report: Report) -> None:
    """Check the responses to browsers."""
    unexpected = {response.status for response in during} - {503}
    report.guarantee(
        f"{cause}: each of {len(during):,} requests gets a 503", unexpected or "all",
        bool(during) and not unexpected,
    )  # fmt: skip
    seconds = slowest(responses)
    report.guarantee(
        f"{cause}: slowest response, seconds (limit {RESPONSE_LIMIT:.0f})", f"{seconds:.2f}",
        seconds < RESPONSE_LIMIT,
    )  # fmt: skip


def check_probes(cause: str, probes: dict[str, list[Response]], report: Report) -> None:
    """Check the responses to a supervisor and a load balancer."""
    expected = {"/healthz": 200, "/readyz": 503}
    if cause == LOCKED_TABLE:
        del expected["/readyz"]  # it reads another table
    for path, status in expected.items():
        statuses = {response.status for response in probes[path]}
        seconds = slowest(probes[path])
        report.guarantee(
            f"{cause}: {path} responds {status}, slowest, seconds (limit {RESPONSE_LIMIT:.0f})", f"{seconds:.2f}",
            statuses == {status} and seconds < RESPONSE_LIMIT,
        )  # fmt: skip


if __name__ == "__main__":
    main()
