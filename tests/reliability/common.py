"""Shared by the programs: a report, a database server, clients that subscribe, a push service that counts."""

import asyncio
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psycopg

from tests.support.deployment import NGINX, Deployment
from tests.support.postgresql import PostgreSQL, free_port
from tests.support.subscriptions import subscription

KEYS = subscription()["keys"]
RESPONSE_LIMIT = 5.0  # seconds; guaranteed for every request, during an outage too
CLIENT_TIMEOUT = 120.0  # seconds; above those of gunicorn and nginx, which must not be reached
RECOVERY_TIMEOUT = 30.0  # seconds to wait for a recovery, before it counts as none


class Report:
    """Prints the result of each guarantee; `finish` fails the program when a guarantee is broken."""

    def __init__(self) -> None:
        self.failures = 0

    def guarantee(self, text: str, figure: object, passed: bool) -> None:
        """Print PASS or FAIL, a guarantee, and the figure it was checked by."""
        self.failures += not passed
        print(f"{'PASS' if passed else 'FAIL'}  {text}: {figure}", flush=True)

    def figure(self, text: str, value: object) -> None:
        """Print a figure that depends on the machine, and passes or fails nothing."""
        print(f"      {text}: {value}", flush=True)

    def finish(self) -> None:
        """Exit, with 1 when a guarantee is broken."""
        sys.exit(1 if self.failures else 0)


class Response(NamedTuple):
    """The result of a request: a status, or the class of the connection's error."""

    status: int | str
    started_at: float  # on the monotonic clock
    seconds: float


def require_programs(*names: str) -> None:
    """Exit with a message when a program that is not a Python package is missing."""
    found = {"nginx": NGINX, "wrk": shutil.which("wrk")}
    if missing := [name for name in names if not found[name]]:
        sys.exit(f"missing: {', '.join(missing)} (apt-get install nginx-light wrk)")


@contextmanager
def database_server(*settings: str) -> Iterator[tuple[PostgreSQL, Path]]:
    """Run a PostgreSQL, durable unless `settings` say otherwise; yield it and a folder to use."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgreSQL(folder, *settings)
        try:
            yield server, folder
        finally:
            server.stop()


class Clients:
    """Browsers that subscribe in a loop, each as fast as it gets responses."""

    def __init__(self, site: Deployment, *, tls: bool = False, repeats: bool = False):
        self.site, self.tls, self.repeats = site, tls, repeats
        self.responses: list[Response] = []
        self.acknowledged: set[str] = set()
        self._number = 0
        self._name = "repeating" if repeats else secrets.token_hex(4)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, number: int) -> None:
        """Start a number of browsers."""
        # Idle connections are closed sooner than gunicorn's keep-alive of 2 s does it.
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=1, ssl=self.site.context() if self.tls else False
        )
        self.session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(CLIENT_TIMEOUT)
        )
        self._tasks = [asyncio.create_task(self._subscribe(client)) for client in range(number)]

    async def stop(self) -> None:
        """Finish the requests in flight, and stop."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self.session.close()

    async def get(self, path: str) -> Response:
        """Request a path once."""
        return await self._request("GET", path)

    def statuses(self) -> Counter[int | str]:
        """Count the responses by status."""
        return Counter(response.status for response in self.responses)

    async def recovery_after(self, time_of_end: float) -> float:
        """Return the seconds from the end of an outage to the first successful request started after it.

        That is infinity when there is none within RECOVERY_TIMEOUT.
        """
        checked = len(self.responses)
        while time.monotonic() < time_of_end + RECOVERY_TIMEOUT:
            new, checked = self.responses[checked:], len(self.responses)
            if any(response.status == 200 and response.started_at > time_of_end for response in new):
                return time.monotonic() - time_of_end
            await asyncio.sleep(0.01)
        return float("inf")

    async def _subscribe(self, client: int) -> None:
        while not self._stop.is_set():
            number = client if self.repeats else self._number
            self._number += 1
            endpoint = f"https://push.example.net/{self._name}/{number}"
            body = json.dumps({"endpoint": endpoint, "expirationTime": None, "keys": KEYS})
            cookie = self.site.cookie(f"{self._name} {number // 50}")
            headers = {"Cookie": cookie, "Content-Type": "application/json"}
            response = await self._request("POST", "/push/subscribe", data=body, headers=headers)
            self.responses.append(response)
            if response.status == 200:
                self.acknowledged.add(endpoint)

    async def _request(self, method: str, path: str, **options: Any) -> Response:
        url = (self.site.tls_url if self.tls else self.site.url) + path
        started_at = time.monotonic()
        status: int | str
        try:
            async with self.session.request(method, url, **options) as response:
                await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            status = type(error).__name__
        return Response(status, started_at, time.monotonic() - started_at)


def slowest(responses: list[Response]) -> float:
    """Return the seconds of the slowest response."""
    return max((response.seconds for response in responses), default=0.0)


def insert_subscriptions(
    url: str, number: int, endpoint: str = "https://push.example.net/", users: int = 0
) -> None:
    """Insert subscriptions at `endpoint` plus a number, of `users` users, by default each of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO push_subscriptions (user_id, endpoint, endpoint_hash, keys_p256dh, keys_auth)"
            " SELECT 'user ' || n %% %s, endpoint, sha256(convert_to(endpoint, 'UTF8')), %s, %s"
            " FROM generate_series(1, %s) n, LATERAL (SELECT %s || n AS endpoint) e",
            (users or number + 1, KEYS["p256dh"], KEYS["auth"], number, endpoint),
        )
        connection.execute("VACUUM ANALYZE push_subscriptions")


@contextmanager
def counting_push_service(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run an nginx that accepts every message; yield its origin, and its log with a path per line."""
    port = free_port()
    log = folder / "pushes"
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "push_service.conf").write_text(
        f"daemon off; pid {folder}/push_service.pid; error_log stderr crit; events {{ worker_connections 4096; }}"
        f" http {{ log_format path '$uri'; access_log {log} path; {paths} keepalive_requests 1000000;"
        f" server {{ listen 127.0.0.1:{port}; client_body_buffer_size 16k; location / {{ return 201; }} }} }}"
    )
    command = [str(NGINX), "-p", str(folder), "-e", "stderr", "-c", str(folder / "push_service.conf")]
    nginx = subprocess.Popen(command)
    time.sleep(0.5)
    try:
        yield f"http://127.0.0.1:{port}", log
    finally:
        nginx.terminate()
        nginx.wait()


def sending_site(server: PostgreSQL, folder: Path, origin: str, recipients: int) -> Deployment:
    """Return a site on a new database, with subscriptions at a push service that it trusts."""
    trusted = json.dumps([origin])
    site = Deployment(server.create_database("sending"), folder, FLASK_PUSH_TRUSTED_PUSH_SERVICES=trusted)
    site.flask("db", "upgrade")
    insert_subscriptions(site.environment["DATABASE_URL"], recipients, f"{origin}/")
    return site


def start_worker(site: Deployment, *arguments: str) -> "subprocess.Popen[str]":
    """Start a `flask push worker`, its log discarded."""
    return subprocess.Popen(
        site.flask_command("push", "worker", *arguments), cwd=site.root, env=site.environment,
        stderr=subprocess.DEVNULL, text=True, process_group=0,
    )  # fmt: skip


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, or for `seconds`; return whether it holds."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds


def scalar(url: str, query: str) -> Any:
    """Return the single value of a query."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row and row[0]
