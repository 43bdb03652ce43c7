"""The queue on PostgreSQL: jobs commit together with the batches that they are for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flask import current_app
from sqlalchemy import Connection, text

from .suppression import is_suppressed

QUEUE = "push"
FAN_OUT = "pushapp.fan_out"
DELIVER = "pushapp.deliver"
DIRECT_PRIORITY, BROADCAST_PRIORITY = 1, 0  # a message to one user does not wait for a broadcast

# Messages in flight of a worker: with half of them for one push service that takes 100 ms, enough for a
# core. What a killed worker had in flight may be sent twice, so not more.
DEFAULT_CONCURRENCY = 512

# In SQL, not by Procrastinate, which only workers import. A batch has one waiting job at most, whoever
# adds it: the queueing lock is unique among them.
_INSERT_JOBS = text(
    "INSERT INTO push_queue.procrastinate_jobs"
    " (queue_name, task_name, priority, queueing_lock, args, scheduled_at)"
    " SELECT :queue, :task, :priority, 'batch ' || id, jsonb_build_object('batch_id', id), run_at"
    " FROM unnest(CAST(:ids AS bigint[]), CAST(:times AS timestamptz[])) AS batches (id, run_at)"
    " ON CONFLICT DO NOTHING"
)


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
    """Add jobs for batches in the connection's transaction; nothing while sends are suppressed."""
    if not is_suppressed(current_app):
        requeue(connection, task_name, batches, priority)


def requeue(connection: Connection, task_name: str, batches: Sequence[ScheduledBatch], priority: int) -> None:
    """Add jobs for batches in the connection's transaction; nothing on SQLite, which has no queue."""
    if connection.dialect.name != "postgresql" or not batches:
        return
    values = {
        "queue": QUEUE,
        "task": task_name,
        "priority": priority,
        "ids": [batch.batch_id for batch in batches],
        "times": [batch.run_at for batch in batches],
    }
    connection.execute(_INSERT_JOBS, values)
