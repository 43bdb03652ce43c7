"""The queue's state: what is due, and its workers. Bounded queries: a long queue costs no more."""

from datetime import datetime
from math import ceil
from typing import NamedTuple

from flask import current_app
from sqlalchemy import Connection, func, select, text

from ..models import PushBatch

ALIVE_AFTER_HEARTBEAT = 20  # seconds; workers send one every five
MAX_BATCHES = 10_000  # counted

_batch = PushBatch.__table__.c

_WORKERS_ALIVE = text(
    "SELECT count(*) FROM push_queue.procrastinate_workers"
    " WHERE last_heartbeat > now() - make_interval(secs => :seconds)"
)


class Queue(NamedTuple):
    """What is due now: at most MAX_BATCHES batches are counted, the oldest."""

    batches: int
    recipients: int
    age: float  # of the oldest batch since it is due, in seconds
    workers: int | None  # alive; None on SQLite

    @property
    def is_longer(self) -> bool:
        """Whether there is more than was counted."""
        return self.batches >= MAX_BATCHES


def read_queue(connection: Connection, now: datetime) -> Queue:
    """Return the queue's state."""
    due = select(_batch.size, _batch.due_at).where(_batch.due_at <= now)
    oldest = due.order_by(_batch.due_at).limit(MAX_BATCHES).subquery()
    counts = select(func.count(), func.sum(oldest.c.size), func.min(oldest.c.due_at))
    batches, recipients, oldest_due_at = connection.execute(counts).one()
    age = (now - oldest_due_at).total_seconds() if oldest_due_at else 0.0
    workers = workers_alive(connection) if connection.dialect.name == "postgresql" else None
    return Queue(batches, int(recipients or 0), age, workers)


def workers_alive(connection: Connection) -> int:
    """Return how many workers have sent a heartbeat lately; PostgreSQL only."""
    alive: int = connection.execute(_WORKERS_ALIVE, {"seconds": ALIVE_AFTER_HEARTBEAT}).scalar_one()
    # A worker that posts to the webhook has a second row for that queue.
    return ceil(alive / 2) if current_app.config["PUSH_WEBHOOK_URL"] else alive
