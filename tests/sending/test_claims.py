"""Claims: no batch is sent by two processes, and none is stranded, whatever becomes of jobs and workers."""

import asyncio
import logging
import threading
import time
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from flask import Flask

from pushapp import EVERYONE, Message
from pushapp.database import transaction
from pushapp.sending import claims, recording
from pushapp.sending.delivery import Engine
from pushapp.sending.status import Status
from pushapp.webpush.responses import SENT
from tests.conftest import signed_in
from tests.support.http import post
from tests.support.push_server import PushServer
from tests.support.sending import counts, drain, enqueue, execute, scalar, status
from tests.support.threads import run_concurrently

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

JOBS = "push_queue.procrastinate_jobs"
NEW_WORKER = (
    "WITH worker AS (INSERT INTO push_queue.procrastinate_workers (last_heartbeat) VALUES ({}) RETURNING id)"
)


@pytest.fixture
def message_id(app: Flask, push_server: PushServer) -> int:
    """A message to three browsers, queued."""
    for _ in range(3):
        post(signed_in(app, "alice"), push_server.subscription())
    return enqueue(app, "alice")


def age(app: Flask, seconds: int = 60) -> None:
    """Let all batches be due for some time."""
    execute(app, f"UPDATE push_batches SET due_at = now() - interval '{seconds} seconds'")


class TestClaim:
    def test_is_of_one_process(self, app: Flask, message_id: int) -> None:
        batch_id = scalar(app, "SELECT id FROM push_batches")

        def claim(owner: int) -> bool:
            with app.app_context():
                return claims.claim(batch_id, owner) is not None

        found = run_concurrently(*[lambda owner=owner: claim(owner) for owner in range(4)])
        assert sorted(found) == [False, False, False, True]

    def test_is_void_when_it_is_not_renewed(self, app: Flask, message_id: int) -> None:
        batch_id = scalar(app, "SELECT id FROM push_batches")
        with app.app_context():
            assert claims.claim(batch_id, 1)
            execute(app, "UPDATE push_batches SET claimed_at = now() - interval '9 seconds'")
            assert not claims.claim(batch_id, 2)
            assert claims.renew([batch_id], 1) == {batch_id: False}
            execute(app, "UPDATE push_batches SET claimed_at = claimed_at - interval '11 seconds'")
            assert claims.claim(batch_id, 2)
            assert claims.renew([batch_id], 1) == {}

    def test_that_is_lost_ends_the_right_to_record(self, app: Flask, message_id: int) -> None:
        batch_id = scalar(app, "SELECT id FROM push_batches")
        with app.app_context():
            first = claims.claim(batch_id, 1)
            execute(app, "UPDATE push_batches SET claimed_at = now() - interval '11 seconds'")
            second = claims.claim(batch_id, 2)
            assert first
            assert second
            for batch, owner, expected in ((first, 1, None), (second, 2, {"sent": 3})):
                report = recording.Report([(recipient, SENT) for recipient in batch.recipients])
                with transaction() as connection:
                    assert recording.record(connection, batch, owner, report) == expected
        assert counts(status(app, message_id)) == (3, 0, 0)

    def test_of_a_batch_that_is_not_due_is_refused(self, app: Flask, message_id: int) -> None:
        execute(app, "UPDATE push_batches SET due_at = now() + interval '1 minute'")
        with app.app_context():
            assert not claims.claim(scalar(app, "SELECT id FROM push_batches"), 1)


class TestLostJobs:
    @pytest.mark.parametrize(
        "loss",
        [
            pytest.param(f"DELETE FROM {JOBS}", id="deleted"),
            pytest.param(f"UPDATE {JOBS} SET status = 'failed'", id="failed by a foreign worker"),
            pytest.param(
                f"{NEW_WORKER.format('now()')} UPDATE {JOBS} SET status = 'doing',"
                " worker_id = (SELECT id FROM worker)",
                id="left doing under a living worker by a cut connection",
            ),
            pytest.param(f"UPDATE {JOBS} SET status = 'doing'", id="doing without a worker"),
        ],
    )
    def test_are_replaced_within_a_minute(
        self, app: Flask, push_server: PushServer, message_id: int, loss: str
    ) -> None:
        execute(app, loss)
        age(app)
        drain(app)
        assert counts(status(app, message_id)) == (3, 0, 0)
        assert push_server.requests == 3

    def test_of_fan_outs_are_replaced(self, app: Flask, push_server: PushServer, message_id: int) -> None:
        broadcast_id = enqueue(app, EVERYONE)
        execute(app, f"DELETE FROM {JOBS}")
        drain(app)
        assert counts(status(app, broadcast_id)) == (3, 0, 0)

    def test_of_a_worker_killed_between_recording_and_the_end_are_no_harm(
        self, app: Flask, push_server: PushServer, message_id: int
    ) -> None:
        execute(app, f"INSERT INTO {JOBS} (queue_name, task_name, args, status)"
                     f" SELECT queue_name, task_name, args, 'todo' FROM {JOBS}")  # fmt: skip
        drain(app)
        assert push_server.requests == 3

    def test_are_replaced_once_by_several_workers(self, app: Flask, message_id: int) -> None:
        execute(app, f"DELETE FROM {JOBS}")

        def requeue() -> Any:
            with app.app_context():
                return claims.requeue_lost()

        run_concurrently(*[requeue] * 4)
        assert scalar(app, f"SELECT count(*) FROM {JOBS}") == 1

    @pytest.mark.parametrize(
        "state",
        [
            pytest.param(f"UPDATE {JOBS} SET status = 'todo'", id="its job waits"),
            pytest.param("UPDATE push_batches SET claimed_at = now(), claimed_by = 1", id="it is being sent"),
            pytest.param("UPDATE push_batches SET due_at = now() + interval '1 minute'", id="it is not due"),
        ],
    )
    def test_a_batch_is_not_lost_while(self, app: Flask, message_id: int, state: str) -> None:
        age(app)
        if "JOBS" not in state and "todo" not in state:
            execute(app, f"DELETE FROM {JOBS}")
        execute(app, state)
        with app.app_context():
            assert claims.requeue_lost() == ([], 0)

    def test_are_looked_for_in_parts(
        self, app: Flask, message_id: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(claims, "SCANNED_BATCHES", 2)
        enqueued = [enqueue(app, "alice") for _ in range(4)]
        execute(app, f"DELETE FROM {JOBS}")
        found, after_id = [], 0
        with app.app_context():
            while True:
                lost, after_id = claims.requeue_lost(after_id)
                found.append(len(lost))
                if not after_id:
                    break
        assert found == [2, 2, 1]
        drain(app)
        assert status(app, enqueued[-1]).state == "done"

    def test_are_found_among_many_batches_in_bounded_time(
        self, app: Flask, message_id: int, migrated_postgresql: str
    ) -> None:
        with psycopg.connect(migrated_postgresql, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO push_batches (message_id, first_id, last_id, size, attempts, due_at)"
                f" SELECT {message_id}, n, n, 1, 0, now() - interval '1 minute'"
                " FROM generate_series(1, 20000) n".encode()
            )
            connection.execute(
                f"INSERT INTO {JOBS} (queue_name, task_name, queueing_lock)"
                " SELECT 'push', 'pushapp.deliver', 'batch ' || id FROM push_batches WHERE size = 1"
                " ON CONFLICT DO NOTHING".encode()
            )
            connection.execute(f"ANALYZE push_batches; ANALYZE {JOBS}".encode())
        started_at = time.monotonic()
        with app.app_context():
            lost, after_id = claims.requeue_lost()
        seconds = time.monotonic() - started_at
        with psycopg.connect(migrated_postgresql, autocommit=True) as connection:
            connection.execute(f"TRUNCATE {JOBS} CASCADE".encode())
        assert not lost
        assert after_id
        assert seconds < 1


def run_engine(app: Flask, message_id: int, **interference: Any) -> None:
    """Send a message's batches with an engine, without a queue."""
    batch_ids = [scalar(app, f"SELECT id FROM push_batches WHERE message_id = {message_id}")]

    async def run() -> None:
        async with Engine(app, 16) as sending:
            for batch_id in batch_ids:
                await sending.deliver(batch_id)
            await sending.wait_until_idle()

    asyncio.run(run())


def test_a_process_that_has_lost_its_claim_records_nothing(
    app: Flask, push_server: PushServer, message_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    push_server.before_response = lambda: execute(app, "UPDATE push_batches SET claimed_by = 1")
    run_engine(app, message_id)
    assert status(app, message_id).sent == 0
    assert "another process has claimed it" in caplog.text


def test_no_message_is_begun_when_the_claim_cannot_be_renewed(
    app: Flask, push_server: PushServer, message_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.sending.sender.LEASE", timedelta(seconds=2))  # without its margin: over
    run_engine(app, message_id)
    assert push_server.requests == 0
    monkeypatch.undo()
    drain(app)


class TestRecordingErrors:
    @pytest.fixture(autouse=True)
    def fast(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr("pushapp.sending.delivery.DATABASE_RETRY", 0.05)
        caplog.set_level(logging.INFO)

    def test_a_missing_grant_ends_in_one_error_line_and_no_second_delivery(
        self, app: Flask, push_server: PushServer, message_id: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        execute(
            app,
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE insufficient_privilege; END $$;"
            " CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON push_subscriptions"
            " FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        try:
            for _ in range(2):
                drain(app)
        finally:
            execute(app, "DROP TRIGGER refuse ON push_subscriptions; DROP FUNCTION refuse")
        found = status(app, message_id)
        assert (found.state, found.sent, found.pending) == ("done", 3, 0)
        assert push_server.requests == 3
        (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert "outcomes are not recorded: InsufficientPrivilege 42501" in error.message

    def test_a_batch_that_cannot_be_counted_is_never_sent_again(
        self, app: Flask, push_server: PushServer, message_id: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        execute(app, "ALTER TABLE push_outcomes ADD CONSTRAINT refuse CHECK (count < 0) NOT VALID")
        try:
            for _ in range(2):
                drain(app)
        finally:
            execute(app, "ALTER TABLE push_outcomes DROP CONSTRAINT refuse")
        assert status(app, message_id).state == "done"
        assert push_server.requests == 3
        assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1

    @pytest.mark.parametrize("table", [JOBS, "push_outcomes", "push_subscriptions", "push_batches"])
    def test_a_locked_table_is_waited_for(
        self,
        app: Flask,
        push_server: PushServer,
        message_id: int,
        migrated_postgresql: str,
        monkeypatch: pytest.MonkeyPatch,
        table: str,
    ) -> None:
        monkeypatch.setattr("pushapp.sending.delivery.RECORDING_TIMEOUT", 0.3)
        post(signed_in(app, "alice"), push_server.subscription((503, {"Retry-After": "60"}, b"")))
        message_id = enqueue(app, "alice")
        url = migrated_postgresql.replace("postgresql+psycopg", "postgresql")
        is_locked = threading.Lock()
        with psycopg.connect(url) as other:

            def lock() -> None:
                if is_locked.acquire(blocking=False):
                    other.execute(f"LOCK TABLE {table}".encode())
                    threading.Timer(1.5, other.rollback).start()

            push_server.before_response = lock
            drain(app)
        found = status(app, message_id)
        assert (found.sent, found.pending) == (3, 1)


def test_one_silent_recipient_does_not_delay_the_recording_of_the_others(
    app: Flask, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.sending.delivery.RECORD_INTERVAL", 0.1)
    end = threading.Event()
    for response in (None, None, lambda: end.wait(10)):
        post(signed_in(app, "alice"), push_server.subscription(response))
    message_id = enqueue(app, "alice", Message(title="x", ttl=0))
    seen: list[tuple[Status, int]] = []  # the message, and the size of its batch

    def watch() -> None:
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline and not seen:
            if status(app, message_id).sent == 2:
                seen.append((status(app, message_id), scalar(app, "SELECT size FROM push_batches")))
        end.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    drain(app)
    watcher.join()
    ((found, size),) = seen
    assert size == 1
    assert found.state == "sending"
    assert counts(status(app, message_id)) == (2, 0, 1)
