"""PgBouncer with transaction pooling, as the deployment page configures it, in front of PostgreSQL."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from flask import Flask

from pushapp import create_app
from pushapp.database import engine
from pushapp.sending.status import status
from pushapp.sending.worker import run_worker
from pushapp.testing import create_tables
from tests.conftest import SETTINGS, signed_in
from tests.support.postgresql import PostgreSQL, free_port
from tests.support.push_server import PushServer

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
TOKEN = "a long random token"
THREADS, USERS = 8, 50
CONFIGURATION = """
[databases]
{name} = host=127.0.0.1 port={server_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
ignore_startup_parameters = options
{more}
"""


def without_statements() -> str:
    """Return the setting that disables prepared statements, which PgBouncer has from version 1.21 on."""
    shown = subprocess.run([str(PGBOUNCER), "--version"], capture_output=True, text=True, check=True).stdout
    major, minor, *_ = shown.split()[1].split(".")  # PgBouncer 1.18.0
    return "max_prepared_statements = 0" if (int(major), int(minor)) >= (1, 21) else ""


@pytest.fixture
def direct_url(server: PostgreSQL, tmp_path: Path) -> str:
    url = server.create_database(tmp_path.name)
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in ("timezone = 'UTC'", "statement_timeout = '1300ms'"):
            connection.execute(f'ALTER ROLE postgres IN DATABASE "{tmp_path.name}" SET {setting}'.encode())
    return url


@pytest.fixture
def pooled_url(server: PostgreSQL, direct_url: str, tmp_path: Path) -> Iterator[str]:
    name, port = direct_url.rpartition("/")[2], free_port()
    configuration = tmp_path / "pgbouncer.ini"
    settings = {"name": name, "server_port": server.port, "port": port, "more": without_statements()}
    configuration.write_text(CONFIGURATION.format_map(settings))
    command = [str(PGBOUNCER), str(configuration)]
    if os.geteuid() == 0:  # PgBouncer does not run as root
        command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", *command]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(port, process, tmp_path / "log")
        yield f"postgresql://postgres@127.0.0.1:{port}/{name}"
    finally:
        process.terminate()
        process.wait(20)


def wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(400):
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(log.read_text())


@pytest.fixture
def make(tmp_path: Path, push_server: PushServer) -> Iterator[Callable[..., Flask]]:
    apps = []

    def make(url: str, **settings: object) -> Flask:
        own = {
            "SQLALCHEMY_DATABASE_URI": url,
            "PUSH_API_TOKENS": [TOKEN],
            "PUSH_TRUSTED_PUSH_SERVICES": [push_server.origin],
        }
        apps.append(create_app(SETTINGS | own | settings, instance_path=str(tmp_path)))
        return apps[-1]

    yield make
    for app in apps:
        with app.app_context():
            engine().dispose()


def subscribe_and_send(app: Flask, push_server: PushServer) -> list[tuple[int, int]]:
    """Subscribe users and send each a message, in several threads; return the statuses of the responses."""

    def request(number: int) -> tuple[int, int]:
        user_id = f"user {number}"
        subscribed = signed_in(app, user_id).post("/push/subscribe", json=push_server.subscription())
        message = {"to": {"user_id": user_id}, "notification": {"title": "Hello"}}
        authorization = {"Authorization": f"Bearer {TOKEN}"}
        sent = app.test_client().post("/push/messages", json=message, headers=authorization)
        return subscribed.status_code, sent.status_code

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(request, range(USERS)))


def test_all_requests_succeed_without_prepared_statements(
    make: Callable[..., Flask], pooled_url: str, direct_url: str, push_server: PushServer
) -> None:
    app = make(pooled_url, PUSH_PREPARE_THRESHOLD=None)
    create_tables(app)
    assert set(subscribe_and_send(app, push_server)) == {(200, 202)}
    with app.app_context(), engine().connect() as connection:
        shown = [
            connection.exec_driver_sql(f"SHOW {name}").scalar() for name in ("statement_timeout", "timezone")
        ]
        assert shown == ["1300ms", "UTC"]
    asyncio.run(run_worker(make(direct_url), drain=True))  # a worker needs LISTEN
    assert len(push_server.pushes) == USERS
    with app.app_context():
        assert {status(message_id + 1).sent for message_id in range(USERS)} == {1}


def test_requests_fail_with_prepared_statements(
    make: Callable[..., Flask],
    pooled_url: str,
    direct_url: str,
    push_server: PushServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    create_tables(make(direct_url))
    assert set(subscribe_and_send(make(pooled_url), push_server)) != {(200, 202)}
    assert "prepared statement" in caplog.text
