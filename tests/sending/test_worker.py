"""`flask push send` and `flask push worker`: shutdown, crashes, and database outages."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask

from pushapp import EVERYONE, create_app
from pushapp.database import engine
from tests.conftest import SETTINGS, migrate, signed_in
from tests.support.deployment import ROOT
from tests.support.http import post
from tests.support.postgresql import PostgreSQL
from tests.support.push_server import PushServer
from tests.support.sending import counts, drain, enqueue, execute, queued_only, status
from tests.support.waiting import wait_until


class Site:
    """A database, an application on it, and the commands of another process."""

    def __init__(self, url: str, folder: Path, push_server: PushServer):
        self.folder, self.push_server = folder, push_server
        settings = {"SQLALCHEMY_DATABASE_URI": url, "PUSH_TRUSTED_PUSH_SERVICES": [push_server.origin]}
        migrate(url, folder)
        self.app: Flask = create_app(SETTINGS | settings, instance_path=str(folder))
        self.environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": url,
            "SECRET_KEY": str(SETTINGS["SECRET_KEY"]),
            "FLASK_PUSH_VAPID_PRIVATE_KEY": str(SETTINGS["PUSH_VAPID_PRIVATE_KEY"]),
            "FLASK_PUSH_VAPID_SUBJECT": str(SETTINGS["PUSH_VAPID_SUBJECT"]),
            "FLASK_PUSH_TRUSTED_PUSH_SERVICES": f'["{push_server.origin}"]',
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flask", "--app", str(ROOT / "wsgi.py"), "push", *arguments]

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    @contextmanager
    def worker(self, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        process = subprocess.Popen(
            self.command("worker", *arguments), cwd=self.folder, env=self.environment,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def subscribe(self, number: int) -> list[dict[str, Any]]:
        bodies = [self.push_server.subscription() for _ in range(number)]
        for position, body in enumerate(bodies):
            assert post(signed_in(self.app, f"user {position % 50}"), body).status_code == 200
        return bodies


def wait_for_line(worker: "subprocess.Popen[str]", text: str, seconds: float = 40) -> None:
    """Wait until a worker logs a line that contains `text`."""
    timer = threading.Timer(seconds, worker.kill)
    timer.start()
    assert worker.stderr is not None
    assert any(text in line for line in iter(worker.stderr.readline, ""))
    timer.cancel()


def kill_at_the_first_response(
    push_server: PushServer, database: PostgreSQL, seconds: float = 0
) -> threading.Event:
    killed, lock = threading.Event(), threading.Lock()

    def kill() -> None:
        with lock:
            if not killed.is_set():
                time.sleep(seconds)
                database.kill()
                killed.set()

    push_server.before_response = kill
    return killed


@pytest.fixture
def make_site(tmp_path: Path, push_server: PushServer) -> Iterator[Callable[[str], Site]]:
    sites = []

    def make(url: str) -> Site:
        sites.append(Site(url, tmp_path, push_server))
        return sites[-1]

    yield make
    for site in sites:
        with site.app.app_context():
            engine().dispose()


@pytest.fixture
def site(make_site: Callable[[str], Site], fragile_url: str) -> Site:
    return make_site(fragile_url)


def test_a_message_is_sent_from_the_shell_on_sqlite(
    make_site: Callable[[str], Site], tmp_path: Path, push_server: PushServer
) -> None:
    site = make_site(f"sqlite:///{tmp_path}/pushapp.db")
    (body,) = site.subscribe(1)
    done = site.run("send", "user 0", "--title", "Grüße 🎉", "--body", "B", "--navigate", "/x", "--ttl", "60")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Message 1: 1 sent, 0 gone, 0 failed, 0 queued.\n"
    (push,) = push_server.pushes_to(body)
    assert push.message["notification"] == {"title": "Grüße 🎉", "body": "B", "navigate": "/x"}


def test_a_message_is_queued_from_the_shell_on_postgresql(site: Site, push_server: PushServer) -> None:
    site.subscribe(3)
    done = site.run("send", "--everyone", "--title", "x", "--urgency", "high", "--topic", "t")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Message 1: 0 sent, 0 gone, 0 failed, 3 queued.\n"
    worker = site.run("worker", "--drain")
    assert worker.returncode == 0, worker.stderr
    assert "message 1, batch 2: 3 sent" in worker.stderr
    assert len(push_server.pushes) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Pass USERs, or one of --channel, --device and --everyone."),
        (["alice", "--everyone"], "Pass USERs, or one of --channel, --device and --everyone."),
        (["--channel", "news", "--device", "7"], "Pass USERs, or one of"),
        (["--channel", "News"], "A channel's name must be"),
        (["--device", "-1"], "A device's id must be"),
        (["alice", "--exclude", ""], "exclude: "),
        (["alice", "--at", "2030-01-01T09:00:00"], "with an offset"),
        (["alice", "--at", "2999-01-01T09:00:00Z"], "at: "),
        (["alice", "--data", "{"], "must be JSON"),
        (["alice", "--vibrate", "long"], "must be milliseconds"),
        (["alice", "--vibrate", "-1"], "vibrate: "),
        (["alice", "--silent", "--vibrate", "1"], "silent: "),
        (["alice", "--renotify"], "renotify: "),
        (["alice", "--dir", "left"], "--dir"),
        (["x" * 256], "to: Must be a user's id"),
        (["alice", "--ttl", "-1"], "ttl: Must not be negative."),
        (["alice", "--topic", "a b"], "topic: "),
        (["alice", "--urgency", "now"], "urgency"),
        (["alice", "--body", "x" * 4_000], "at most 3993 bytes"),
    ],
)
def test_invalid_arguments_are_a_usage_error(
    make_app: Callable[..., Flask], arguments: list[str], message: str
) -> None:
    runner = make_app().test_cli_runner()
    done = runner.invoke(args=["push", "send", "--title", "x", *arguments])
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_title_is_required(make_app: Callable[..., Flask]) -> None:
    done = make_app().test_cli_runner().invoke(args=["push", "send", "alice"])
    assert "--title" in done.stderr


def test_sigterm_lets_messages_in_flight_finish(site: Site, push_server: PushServer) -> None:
    bodies = site.subscribe(40)
    received, respond = threading.Event(), threading.Event()

    def hold_response() -> None:
        received.set()
        respond.wait(10)

    push_server.before_response = hold_response
    enqueue(site.app, EVERYONE)
    with site.worker() as worker:
        assert received.wait(20)
        worker.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(0.3)
        respond.set()
        assert worker.wait(20) == 0
    assert len(push_server.pushes) == len(bodies)
    drain(site.app)
    assert len(push_server.pushes) == len(bodies)


@queued_only
def test_a_stalled_job_is_retried(app: Flask, push_server: PushServer) -> None:
    post(signed_in(app, "alice"), push_server.subscription())
    message_id = enqueue(app, "alice")
    execute(
        app,
        "WITH worker AS (INSERT INTO push_queue.procrastinate_workers (last_heartbeat)"
        " VALUES (now() - interval '1 minute') RETURNING id)"
        " UPDATE push_queue.procrastinate_jobs SET status = 'doing', worker_id = (SELECT id FROM worker)",
    )
    drain(app)
    assert counts(status(app, message_id)) == (1, 0, 0)


@queued_only
def test_a_job_of_a_worker_with_a_recent_heartbeat_is_not_retried(
    app: Flask, push_server: PushServer
) -> None:
    post(signed_in(app, "alice"), push_server.subscription())
    message_id = enqueue(app, "alice")
    execute(
        app,
        "WITH worker AS (INSERT INTO push_queue.procrastinate_workers DEFAULT VALUES RETURNING id)"
        " UPDATE push_queue.procrastinate_jobs SET status = 'doing', worker_id = (SELECT id FROM worker)",
    )
    drain(app)
    assert status(app, message_id).state == "queued"
    assert push_server.requests == 0


def has_received(push_server: PushServer, number: int) -> bool:
    return len(push_server.pushes) >= number


@pytest.mark.slow
def test_batches_in_flight_of_a_killed_worker_are_retried(site: Site, push_server: PushServer) -> None:
    bodies = site.subscribe(1_000)
    push_server.before_response = lambda: time.sleep(0.05)
    enqueue(site.app, EVERYONE)
    for _ in range(2):
        expected = len(push_server.pushes) + 100
        with site.worker("--concurrency", "16") as worker:
            wait_until(partial(has_received, push_server, expected), 60)
            worker.kill()
    push_server.before_response = lambda: None
    with site.worker() as worker:
        wait_until(lambda: len({push.path for push in push_server.pushes}) == len(bodies), 90)
        worker.send_signal(signal.SIGTERM)
        worker.wait(20)
    drained = site.app.test_cli_runner().invoke(args=["push", "worker", "--drain"])
    assert drained.exit_code == 0, drained.stderr
    deliveries = Counter(push.path for push in push_server.pushes)
    assert len(deliveries) == len(bodies)
    # Each killed worker had 16 messages in flight at most.
    assert sum(number - 1 for number in deliveries.values()) <= 2 * 16
    with psycopg.connect(site.environment["DATABASE_URL"]) as connection:
        outcomes = connection.execute("SELECT outcome, sum(count)::int FROM push_outcomes GROUP BY outcome")
        assert outcomes.fetchall() == [("sent", len(bodies))]


def test_a_worker_reconnects_after_an_outage(
    site: Site, push_server: PushServer, fragile: PostgreSQL
) -> None:
    site.subscribe(3)
    with site.worker() as worker:
        enqueue(site.app, "user 0")
        wait_until(lambda: len(push_server.pushes) == 1)
        fragile.kill()
        wait_for_line(worker, "database unavailable")
        fragile.start()
        enqueue(site.app, "user 1")
        wait_until(lambda: len(push_server.pushes) == 2)
        assert worker.poll() is None


def test_a_worker_started_during_an_outage_waits_for_the_database(
    site: Site, push_server: PushServer, fragile: PostgreSQL
) -> None:
    site.subscribe(1)
    enqueue(site.app, "user 0")
    fragile.kill()
    with site.worker() as worker:
        assert worker.stderr is not None
        for _ in range(2):
            assert "database unavailable" in worker.stderr.readline()
        fragile.start()
        wait_until(lambda: len(push_server.pushes) == 1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0


def test_outcomes_are_recorded_after_an_outage(
    site: Site, push_server: PushServer, fragile: PostgreSQL
) -> None:
    site.subscribe(20)
    killed = kill_at_the_first_response(push_server, fragile)
    message_id = enqueue(site.app, EVERYONE)
    with site.worker():
        wait_until(lambda: len(push_server.pushes) == 20 and killed.is_set())
        fragile.start()
        wait_until(lambda: status(site.app, message_id).sent == 20)
    assert len(push_server.pushes) == 20


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--drain"]])
def test_sigterm_ends_a_worker_within_15_seconds_while_the_database_is_unavailable(
    site: Site, push_server: PushServer, fragile: PostgreSQL, arguments: list[str]
) -> None:
    site.subscribe(20)
    killed = kill_at_the_first_response(push_server, fragile, 2)  # a drain waits for the batch then
    enqueue(site.app, EVERYONE)
    with site.worker(*arguments) as worker:
        wait_until(lambda: len(push_server.pushes) == 20 and killed.is_set())
        stopped_at = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
        assert time.monotonic() - stopped_at < 15
    fragile.start()


def test_a_worker_without_tables_says_so_once_and_waits_for_them(
    make_site: Callable[[str], Site], server: PostgreSQL, push_server: PushServer
) -> None:
    site = make_site(server.create_database("unmigrated"))
    assert site.run("db", "downgrade", "base").returncode == 0
    with site.worker() as worker:
        assert worker.stderr is not None
        assert "run `flask push db upgrade`" in worker.stderr.readline()
        assert site.run("db", "upgrade").returncode == 0
        site.subscribe(1)
        site.run("send", "user 0", "--title", "x")
        wait_until(lambda: len(push_server.pushes) == 1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
        assert "flask push db upgrade" not in worker.stderr.read()


def test_few_file_descriptors_mean_few_messages_in_flight(site: Site, push_server: PushServer) -> None:
    site.subscribe(3)
    site.run("send", "--everyone", "--title", "x")
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 400 && exec "$@"', "sh", *site.command("worker", "--drain")],
        cwd=site.folder, env=site.environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "200 messages in flight at most: `ulimit -n` allows no more connections" in done.stderr
    assert len(push_server.pushes) == 3


@pytest.mark.slow
def test_sigterm_ends_a_worker_within_15_seconds_while_a_push_service_takes_7_5_seconds(
    site: Site, push_server: PushServer
) -> None:
    bodies = site.subscribe(300)
    push_server.before_response = lambda: time.sleep(7.5)
    message_id = enqueue(site.app, EVERYONE)
    with site.worker("--concurrency", "16") as worker, site.worker("--concurrency", "16") as other:
        wait_until(lambda: push_server.requests >= 16)
        stopped_at = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
        assert time.monotonic() - stopped_at < 15
        push_server.before_response = lambda: None
        wait_until(lambda: status(site.app, message_id).state == "done", 90)
        other.send_signal(signal.SIGTERM)
        assert other.wait(20) == 0
    assert counts(status(site.app, message_id)) == (300, 0, 0)
    assert len(push_server.pushes) == len(bodies)


@pytest.mark.slow
def test_what_a_killed_worker_was_sending_is_sent_by_another_within_30_seconds(
    site: Site, push_server: PushServer
) -> None:
    site.subscribe(20)
    end = threading.Event()
    push_server.before_response = lambda: end.wait(60)
    message_id = enqueue(site.app, EVERYONE)
    with site.worker() as worker:
        wait_until(lambda: push_server.requests > 0)
        worker.kill()
    end.set()
    with site.worker():
        wait_until(lambda: status(site.app, message_id).state == "done", 40)
    assert counts(status(site.app, message_id)) == (20, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("query", ["?options=-c%20application_name%3Da%20-c%20work_mem%3D5MB", "hosts"])
def test_a_worker_uses_the_connection_settings_of_the_application(
    make_site: Callable[[str], Site], server: PostgreSQL, push_server: PushServer, tmp_path: Path, query: str
) -> None:
    name = f"settings_{tmp_path.name}"
    url = server.create_database(name)
    if query == "hosts":
        url = f"postgresql://postgres@/{name}?host=127.0.0.1:1&host=127.0.0.1:{server.port}"
    else:
        url += query
    site = make_site(url)
    site.subscribe(2)
    message_id = enqueue(site.app, EVERYONE)
    done = site.run("worker", "--drain")
    assert done.returncode == 0, done.stderr
    assert counts(status(site.app, message_id)) == (2, 0, 0)
