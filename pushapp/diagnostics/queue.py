"""The queue's state: its workers, and what is due. Bounded queries: a long queue costs no more."""

from sqlalchemy import Connection, text

ALIVE_AFTER_HEARTBEAT = 20  # seconds; workers send one every five

_WORKERS_ALIVE = text(
    "SELECT count(*) FROM push_queue.procrastinate_workers"
    " WHERE last_heartbeat > now() - make_interval(secs => :seconds)"
)


def workers_alive(connection: Connection) -> int:
    """Return how many workers have sent a heartbeat lately; PostgreSQL only."""
    alive: int = connection.execute(_WORKERS_ALIVE, {"seconds": ALIVE_AFTER_HEARTBEAT}).scalar_one()
    return alive
