"""The webhook's jobs: an event commits together with the job that posts it."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from flask import current_app
from sqlalchemy import Connection, text

QUEUE = "push_webhook"  # of its own: a receiver that does not respond must not delay messages
TASK = "pushapp.webhook"

_INSERT_JOBS = text(
    "INSERT INTO push_queue.procrastinate_jobs (queue_name, task_name, priority, args)"
    " SELECT :queue, :task, 0, args FROM jsonb_array_elements(CAST(:jobs AS jsonb)) AS jobs (args)"
)


class Post(NamedTuple):
    """What is posted, byte for byte the same in each attempt."""

    webhook_id: str
    body: str


def posts_for(events: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Post]:
    """Return what is to be posted for events (type and data); nothing without PUSH_WEBHOOK_URL."""
    if not current_app.config["PUSH_WEBHOOK_URL"]:
        return []
    timestamp = datetime.now(UTC).isoformat()
    return [
        Post(f"msg_{uuid4().hex}", json.dumps({"type": name, "timestamp": timestamp, "data": data}))
        for name, data in events
    ]


def enqueue(connection: Connection, posts: Sequence[Post]) -> None:
    """Add jobs in the connection's transaction, on PostgreSQL."""
    jobs = json.dumps([post._asdict() for post in posts])
    connection.execute(_INSERT_JOBS, {"queue": QUEUE, "task": TASK, "jobs": jobs})
