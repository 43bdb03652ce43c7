"""What the programs share: a database server, callers, a push service that counts, and a verdict."""

import asyncio
import json
import os
import secrets
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


class Verdict:
    """Says of each promise what was found; `end` fails the program when one was broken."""

    def __init__(self) -> None:
        self.broken = 0

    def promise(self, text: str, figure: object, kept: bool) -> None:
        """Print a promise and its figure."""
        self.broken += not kept
        print(f"{'kept  ' if kept else 'BROKEN'}  {text}: {figure}", flush=True)

    def end(self) -> None:
        """Exit, with 1 when a promise was broken."""
        sys.exit(1 if self.broken else 0)


class Answer(NamedTuple):
    """What a caller got: a status, or the name of what broke."""

    status: int | str
    began: float  # on the monotonic clock
    seconds: float


@contextmanager
def database_server(*settings: str) -> Iterator[tuple[PostgreSQL, Path]]:
    """Run a PostgreSQL, durable unless `settings` say otherwise; yields it and a folder to use."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgreSQL(folder, *settings)
        try:
            yield server, folder
        finally:
            server.stop()


class Callers:
    """Browsers that subscribe one after the other, as fast as they are answered."""

    def __init__(self, site: Deployment, *, tls: bool = False, repeats: bool = False):
        self.site, self.tls, self.repeats = site, tls, repeats
        self.answers: list[Answer] = []
        self.acknowledged: set[str] = set()
        self._number = 0
        self._name = "repeating" if repeats else secrets.token_hex(4)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, number: int) -> None:
        """Let so many browsers begin."""
        connector = aiohttp.TCPConnector(limit=0, ssl=self.site.context() if self.tls else False)
        self.session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(30))
        self._tasks = [asyncio.create_task(self._call(caller)) for caller in range(number)]

    async def stop(self) -> None:
        """Let them end."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self.session.close()

    async def get(self, path: str) -> Answer:
        """Ask for a path, once."""
        return await self._ask("GET", path)

    def statuses(self) -> Counter[int | str]:
        """Return how often each answer came."""
        return Counter(answer.status for answer in self.answers)

    async def _call(self, caller: int) -> None:
        while not self._stop.is_set():
            number = caller if self.repeats else self._number
            self._number += 1
            endpoint = f"https://push.example.net/{self._name}/{number}"
            body = json.dumps({"endpoint": endpoint, "expirationTime": None, "keys": KEYS})
            cookie = self.site.cookie(f"{self._name} {number // 50}")
            headers = {"Cookie": cookie, "Content-Type": "application/json"}
            answer = await self._ask("POST", "/push/subscribe", data=body, headers=headers)
            self.answers.append(answer)
            if answer.status == 200:
                self.acknowledged.add(endpoint)

    async def _ask(self, method: str, path: str, **more: Any) -> Answer:
        url = (self.site.tls_url if self.tls else self.site.url) + path
        began = time.monotonic()
        status: int | str
        try:
            async with self.session.request(method, url, **more) as response:
                await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            status = type(error).__name__
        return Answer(status, began, time.monotonic() - began)


def slowest(answers: list[Answer]) -> float:
    """Return the seconds of the slowest answer."""
    return max((answer.seconds for answer in answers), default=0.0)


def put_in(url: str, number: int, endpoint: str = "https://push.example.net/", users: int = 0) -> None:
    """Put in subscriptions, `endpoint` and a number each, of as many users (or of so many)."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO push_subscriptions (user_id, endpoint, keys_p256dh, keys_auth)"
            " SELECT 'user ' || n %% %s, %s || n, %s, %s FROM generate_series(1, %s) n",
            (users or number + 1, endpoint, KEYS["p256dh"], KEYS["auth"], number),
        )
        connection.execute("VACUUM ANALYZE push_subscriptions")


@contextmanager
def counting_push_service(folder: Path) -> Iterator[tuple[str, Path]]:
    """Run an nginx that answers 201 to every message; yields its origin and its log, a path a line."""
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


def start_worker(site: Deployment, *arguments: str) -> "subprocess.Popen[str]":
    """Start a `flask push worker` that says nothing."""
    return subprocess.Popen(
        site.flask_command("push", "worker", *arguments), cwd=site.root, env=site.environment,
        stderr=subprocess.DEVNULL, text=True, preexec_fn=os.setpgrp,
    )  # fmt: skip


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, for so many seconds; say whether it does."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds


def scalar(url: str, query: str) -> Any:
    """Return the one value that a query gives."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row and row[0]
