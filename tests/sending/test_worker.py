"""`flask push send` and `flask push worker` as processes: stopped, killed, and without their database."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask

from pushapp import create_app
from pushapp.extensions import db
from tests.conftest import SETTINGS, migrate, signed_in
from tests.support.postgresql import PostgreSQL
from tests.support.push_server import PushServer
from tests.web.test_http import post

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    server = PostgreSQL(tmp_path_factory.mktemp("queue"), "fsync=off")
    yield server
    server.stop()


class Site:
    """A database, and the commands that work on it."""

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
            timeout=120,
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


@pytest.fixture
def make_site(tmp_path: Path, push_server: PushServer) -> Iterator[Callable[[str], Site]]:
    sites = []

    def make(url: str) -> Site:
        sites.append(Site(url, tmp_path, push_server))
        return sites[-1]

    yield make
    for site in sites:
        with site.app.app_context():
            db.engine.dispose()


@pytest.fixture
def site(make_site: Callable[[str], Site], fragile: PostgreSQL) -> Site:
    return make_site(fragile.url())


def test_a_message_is_sent_from_the_shell_on_sqlite(
    make_site: Callable[[str], Site], tmp_path: Path, push_server: PushServer
) -> None:
    site = make_site(f"sqlite:///{tmp_path}/pushapp.db")
    (body,) = site.subscribe(1)
    done = site.run("send", "user 0", "--title", "Grüße 🎉", "--body", "B", "--navigate", "/x", "--ttl", "60")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Message 1: 1 sent, 0 gone, 0 failed, 0 queued.\n"
    (push,) = push_server.to(body)
    assert push.message["notification"] == {"title": "Grüße 🎉", "body": "B", "navigate": "/x"}
    refusal = site.run("worker")
    assert refusal.returncode != 0
    assert "the queue needs PostgreSQL" in refusal.stderr


def test_a_message_is_queued_from_the_shell_on_postgresql(site: Site, push_server: PushServer) -> None:
    site.subscribe(3)
    done = site.run("send", "--everyone", "--title", "x", "--urgency", "high", "--topic", "t")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Message 1: 0 sent, 0 gone, 0 failed, 3 queued.\n"
    worked = site.run("worker", "--drain")
    assert worked.returncode == 0, worked.stderr
    assert "message 1, batch 2: 3 sent" in worked.stderr
    assert len(push_server.pushes) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Pass either USER or --everyone."),
        (["alice", "--everyone"], "Pass either USER or --everyone."),
        (["x" * 256], "to: Must be a user's id"),
        (["alice", "--ttl", "-1"], "ttl: Must not be negative."),
        (["alice", "--topic", "a b"], "topic: "),
        (["alice", "--urgency", "now"], "urgency"),
        (["alice", "--body", "x" * 4_000], "at most 3993 bytes"),
    ],
)
def test_a_wrong_command_is_told_so(
    make_app: Callable[..., Flask], arguments: list[str], message: str
) -> None:
    runner = make_app().test_cli_runner()
    done = runner.invoke(args=["push", "send", "--title", "x", *arguments])
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_title_is_needed(make_app: Callable[..., Flask]) -> None:
    done = make_app().test_cli_runner().invoke(args=["push", "send", "alice"])
    assert "--title" in done.stderr


def test_a_worker_lets_what_is_in_flight_finish(site: Site, push_server: PushServer) -> None:
    bodies = site.subscribe(40)
    started, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        go_on.wait(10)

    push_server.before_answer = wait
    site.run("send", "--everyone", "--title", "x")
    with site.worker() as worker:
        assert started.wait(20)
        worker.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert worker.poll() is None
        go_on.set()
        assert worker.wait(20) == 0
    assert Counter(push.path for push in push_server.pushes).total() == len(bodies)
    assert site.run("worker", "--drain").returncode == 0
    assert len(push_server.pushes) == len(bodies)


def test_what_a_killed_worker_had_in_hand_is_taken_up(site: Site, push_server: PushServer) -> None:
    bodies = site.subscribe(1_000)
    push_server.before_answer = lambda: time.sleep(0.05)
    site.run("send", "--everyone", "--title", "x")
    for _ in range(2):
        before = len(push_server.pushes)
        with site.worker("--concurrency", "1") as worker:
            deadline = time.monotonic() + 60
            while len(push_server.pushes) < before + 100:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            worker.kill()
    push_server.before_answer = lambda: None
    with site.worker() as worker:
        deadline = time.monotonic() + 90
        while len({push.path for push in push_server.pushes}) < len(bodies):
            assert time.monotonic() < deadline, len(push_server.pushes)
            time.sleep(0.1)
        worker.send_signal(signal.SIGTERM)
        worker.wait(20)
    status = site.app.test_cli_runner().invoke(args=["push", "worker", "--drain"])
    assert status.exit_code == 0, status.stderr
    often = Counter(push.path for push in push_server.pushes)
    assert len(often) == len(bodies)
    assert sum(number - 1 for number in often.values()) <= 2 * 250  # what each had in flight: one slice
    with psycopg.connect(site.environment["DATABASE_URL"]) as connection:
        counted = connection.execute("SELECT outcome, sum(count)::int FROM push_outcomes GROUP BY outcome")
        assert counted.fetchall() == [("sent", len(bodies))]


def test_a_worker_waits_for_its_database(site: Site, push_server: PushServer, fragile: PostgreSQL) -> None:
    site.subscribe(3)
    with site.worker() as worker:
        site.run("send", "user 0", "--title", "before")
        wait_for(lambda: len(push_server.pushes) == 1)
        fragile.kill()
        time.sleep(1)
        fragile.start()
        done = site.run("send", "user 1", "--title", "after")
        assert done.returncode == 0, done.stderr
        wait_for(lambda: len(push_server.pushes) == 2)
        assert worker.poll() is None


def test_a_worker_that_starts_before_its_database_works_when_it_comes(
    site: Site, push_server: PushServer, fragile: PostgreSQL
) -> None:
    site.subscribe(1)
    site.run("send", "user 0", "--title", "before")
    fragile.kill()
    with site.worker() as worker:
        assert worker.stderr is not None
        for _ in range(2):
            assert "database unavailable" in worker.stderr.readline()
        fragile.start()
        wait_for(lambda: len(push_server.pushes) == 1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0


def test_what_was_sent_is_recorded_when_the_database_is_back(
    site: Site, push_server: PushServer, fragile: PostgreSQL
) -> None:
    site.subscribe(20)
    killed, lock = threading.Event(), threading.Lock()

    def kill() -> None:
        with lock:
            if not killed.is_set():
                fragile.kill()
                killed.set()

    push_server.before_answer = kill
    site.run("send", "--everyone", "--title", "x")
    with site.worker():
        wait_for(lambda: len(push_server.pushes) == 20 and killed.is_set())
        fragile.start()

        def recorded() -> bool:
            with psycopg.connect(fragile.url()) as connection:
                return connection.execute("SELECT sum(count)::int FROM push_outcomes").fetchone() == (20,)

        wait_for(recorded)
    assert len(push_server.pushes) == 20


def wait_for(condition: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
