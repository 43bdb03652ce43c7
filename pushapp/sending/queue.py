"""The queue on PostgreSQL: jobs commit together with the batches that they are for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import procrastinate
from flask import current_app
from sqlalchemy import Connection, text

from ..database import engine
from ..schema import QUEUE_SCHEMA
from .suppression import is_suppressed

QUEUE = "push"
FAN_OUT = "pushapp.fan_out"
DELIVER = "pushapp.deliver"
DIRECT_PRIORITY, BROADCAST_PRIORITY = 1, 0  # a message to one user does not wait for a broadcast
JOBS_PER_STATEMENT = 500

_app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())
_enter_schema = text("SELECT current_setting('search_path'), set_config('search_path', :schema, true)")


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """A batch, and when to run its job."""

    batch_id: int
    run_at: datetime


def enqueue(
    connection: Connection,
    task_name: str,
    batches: Sequence[ScheduledBatch],
    priority: int = DIRECT_PRIORITY,
) -> None:
    """Add jobs for batches in the connection's transaction; nothing where `send` delivers itself."""
    if not batches or delivers_synchronously():
        return
    with _queue_schema(connection):
        for run_at in sorted({batch.run_at for batch in batches}):
            ids = [batch.batch_id for batch in batches if batch.run_at == run_at]
            for start in range(0, len(ids), JOBS_PER_STATEMENT):
                deferrer = _app.configure_task(
                    task_name,
                    queue=QUEUE,
                    connection=connection.connection.driver_connection,
                    schedule_at=run_at,
                    priority=priority,
                )
                chunk = ids[start : start + JOBS_PER_STATEMENT]
                arguments: list[dict[str, Any]] = [{"batch_id": batch_id} for batch_id in chunk]
                deferrer.batch_defer(*arguments)


def delivers_synchronously() -> bool:
    """Return whether `send` delivers: on SQLite, which has no queue, and while sends are suppressed."""
    return engine().dialect.name == "sqlite" or is_suppressed(current_app)


@contextmanager
def _queue_schema(connection: Connection) -> Iterator[None]:
    # The connection is the caller's: its search path is restored.
    search_path = connection.execute(_enter_schema, {"schema": QUEUE_SCHEMA}).scalar_one()
    yield
    connection.execute(_enter_schema, {"schema": search_path})
