"""pushapp behind a PgBouncer in transaction mode, which may be older than 1.21."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

import pushapp
from pushapp.database import engine
from tests.conftest import SETTINGS, migrate, signed_in
from tests.support.http import post
from tests.support.postgresql import PostgreSQL, free_port
from tests.support.subscriptions import subscription
from tests.support.threads import run_concurrently
from tests.support.waiting import wait_until

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
THREADS = 8

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")]


@pytest.fixture
def pgbouncer_url(server: PostgreSQL, tmp_path: Path) -> Iterator[str]:
    """A PgBouncer with few connections to a migrated database."""
    migrate(server.create_database("behind_pgbouncer"), tmp_path)
    port = free_port()
    (tmp_path / "users").write_text('"postgres" ""\n')
    (tmp_path / "pgbouncer.ini").write_text(
        f"[databases]\nbehind_pgbouncer = host=127.0.0.1 port={server.port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
        f"auth_file = {tmp_path}/users\npool_mode = transaction\ndefault_pool_size = 3\n"
        "ignore_startup_parameters = options\n"
    )
    assert PROGRAM is not None
    # It refuses to run as root.
    namespace = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    command = [*namespace, PROGRAM, str(tmp_path / "pgbouncer.ini")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"postgresql://postgres@127.0.0.1:{port}/behind_pgbouncer"

        def is_ready() -> bool:
            try:
                psycopg.connect(url, connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        wait_until(is_ready)
        yield url
        process.terminate()


def test_concurrent_requests_succeed_without_prepared_statements(pgbouncer_url: str, tmp_path: Path) -> None:
    settings = {"SQLALCHEMY_DATABASE_URI": pgbouncer_url, "PUSH_PREPARE_THRESHOLD": None}
    app = pushapp.create_app(SETTINGS | settings, instance_path=str(tmp_path))

    def use(number: int) -> set[int]:
        client = signed_in(app, f"user {number}")
        statuses = {post(client, subscription()).status_code for _ in range(20)}
        with app.app_context():
            pushapp.send(pushapp.Message(title="x"), to=f"user {number}")
        return statuses | {client.get("/push/subscriptions").status_code}

    results = run_concurrently(*(partial(use, number) for number in range(THREADS)))
    assert results == [{200}] * THREADS
    with app.app_context():
        engine().dispose()
