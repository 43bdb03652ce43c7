"""Events: what the application's signals and the webhook tell of messages and subscriptions."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from flask import current_app
from sqlalchemy import Connection, exists, func, select

from .. import signals
from ..database import transaction
from ..models import PushBatch, PushMessage, PushOutcome
from . import webhook
from .suppression import is_suppressed

SIGNALS = {
    "message.clicked": signals.message_clicked,
    "message.done": signals.message_done,
    "subscription.gone": signals.subscription_gone,
}

_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c
_outcome = PushOutcome.__table__.c

logger = logging.getLogger(__name__)


class Event(NamedTuple):
    """What has happened: its type, as the webhook names it, and what is known of it."""

    type: str
    data: dict[str, Any]


@contextmanager
def recorded(deadline: float | None = None) -> Iterator[tuple[Connection, list[Event]]]:
    """Yield a connection in a transaction, and a list for events.

    The webhook's jobs commit with the transaction; the signals are sent after it.
    """
    happened: list[Event] = []
    with transaction(deadline) as connection:
        yield connection, happened
        unqueued = store(connection, happened)
    for event in happened:
        signals.send(SIGNALS[event.type], **event.data)
    if unqueued:
        _post_now(unqueued)


def store(connection: Connection, happened: Sequence[Event]) -> Sequence[webhook.Post]:
    """Add the webhook's jobs for events to a transaction; return what is left to post: all, on SQLite.

    Nothing while sends are suppressed.
    """
    posts = [] if is_suppressed(current_app) else webhook.posts_for(happened)
    if connection.dialect.name != "postgresql":
        return posts
    if posts:
        webhook.enqueue(connection, posts)
    return []


def _post_now(posts: Sequence[webhook.Post]) -> None:
    from .webhook_client import post_now  # noqa: PLC0415  # where there is a queue, only workers need it

    try:
        post_now(posts)
    except Exception as error:  # whatever it is: what was recorded stays recorded
        logger.error("PUSH_WEBHOOK_URL: %r: events are lost", error)


def gone(subscriptions: Iterable[Any]) -> list[Event]:
    """Return the events for deleted subscriptions, rows with id and user_id."""
    return [
        Event("subscription.gone", {"subscription_id": row.id, "user_id": row.user_id})
        for row in subscriptions
    ]


def lock(connection: Connection, message_id: int) -> None:
    """Lock a message, before what may delete its last batch: then one transaction sees that it is done."""
    of_message = select(_message.id).where(_message.id == message_id)
    connection.execute(of_message.with_for_update(key_share=True))


def done(connection: Connection, message_id: int) -> list[Event]:
    """Return the event that a message is done if it has no batch any more.

    The caller has deleted a batch, or added none, and has locked the message.
    """
    has_batches = exists().where(_batch.message_id == message_id)
    query = select(_message.recipients).where(_message.id == message_id, ~has_batches)
    recipients = connection.execute(query).scalar()
    if recipients is None:
        return []
    sums = select(_outcome.outcome, func.sum(_outcome.count)).where(_outcome.message_id == message_id)
    outcomes = {name: int(number) for name, number in connection.execute(sums.group_by(_outcome.outcome))}
    return [Event("message.done", {"message_id": message_id, "recipients": recipients, "outcomes": outcomes})]
