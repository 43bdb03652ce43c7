"""All that is stored of a user: delete it, or export it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import bindparam, delete, func, select

from .database import autocommit, transaction
from .models import PushBatch, PushFailure, PushMessage, PushOutcome, PushSubscription, normalize_user_id
from .subscriptions import lock

WINDOW = 5_000  # messages a statement: push_messages has no index of users

_subscription = PushSubscription.__table__.c
_failure = PushFailure.__table__.c
_message = PushMessage.__table__.c
_own = _subscription.user_id == bindparam("user_id")
_own_messages = select(_message.id).where(
    _message.id.between(bindparam("first_id"), bindparam("last_id")), _message.user_id == bindparam("user_id")
)

# In this order: the last statement of each deletes the rows that the others find theirs by.
_DELETE_SUBSCRIPTIONS = (
    delete(PushFailure.__table__).where(_failure.subscription_id.in_(select(_subscription.id).where(_own))),
    delete(PushSubscription.__table__).where(_own),
)
_DELETE_MESSAGES = (
    delete(PushBatch.__table__).where(PushBatch.__table__.c.message_id.in_(_own_messages)),
    delete(PushOutcome.__table__).where(PushOutcome.__table__.c.message_id.in_(_own_messages)),
    delete(PushMessage.__table__).where(_message.id.in_(_own_messages)),
)

# Without the keys, which are the browser's secrets.
_SELECT_SUBSCRIPTIONS = (
    select(
        _subscription.id,
        _subscription.label,
        _subscription.endpoint,
        _subscription.created_at,
        _subscription.updated_at,
        _subscription.expires_at,
        _subscription.last_sent_at,
        _failure.failures,
        _failure.since.label("failing_since"),
    )
    .outerjoin(PushFailure.__table__, _failure.subscription_id == _subscription.id)
    .where(_own)
    .order_by(_subscription.id)
)
_SELECT_MESSAGES = (
    select(_message.id, _message.created_at, _message.message)
    .where(_message.id.in_(_own_messages))
    .order_by(_message.id)
)
_next_ids = (
    select(_message.id)
    .where(_message.id > bindparam("after_id"))
    .order_by(_message.id)
    .limit(bindparam("limit"))
)
_LAST_ID = select(func.max(_next_ids.subquery().c.id))


class Erased(NamedTuple):
    """How many rows of a user were deleted."""

    subscriptions: int
    messages: int


def erase(user: str | int) -> Erased:
    """Delete all that is stored of a user: subscriptions, and messages to them, also those not sent yet.

    What a push service was given before may still arrive. Interrupted, it can be called again.

    Raises ValueError for an invalid user id.
    """
    user_id = _user_id(user)
    with transaction() as connection:
        lock(connection)
        subscriptions = [connection.execute(each, {"user_id": user_id}) for each in _DELETE_SUBSCRIPTIONS]
    messages = 0
    for window in _windows(user_id):
        with transaction() as connection:
            messages += [connection.execute(each, window) for each in _DELETE_MESSAGES][-1].rowcount
    return Erased(subscriptions[-1].rowcount, messages)


def export(user: str | int) -> dict[str, Any]:
    """Return all that is stored of a user, as JSON values and aware datetimes.

    Raises ValueError for an invalid user id.
    """
    user_id = _user_id(user)
    with autocommit() as connection:
        subscriptions = connection.execute(_SELECT_SUBSCRIPTIONS, {"user_id": user_id}).mappings().all()
    messages: list[dict[str, Any]] = []
    for window in _windows(user_id):
        with autocommit() as connection:
            messages.extend(map(dict, connection.execute(_SELECT_MESSAGES, window).mappings()))
    return {"user_id": user_id, "subscriptions": [dict(row) for row in subscriptions], "messages": messages}


def _windows(user_id: str) -> Iterator[dict[str, Any]]:
    after_id: int | None = 0
    while after_id is not None:
        first_id = after_id + 1
        with autocommit() as connection:
            after_id = connection.execute(_LAST_ID, {"after_id": after_id, "limit": WINDOW}).scalar()
        if after_id is not None:
            yield {"user_id": user_id, "first_id": first_id, "last_id": after_id}


def _user_id(user: str | int) -> str:
    user_id = normalize_user_id(user)
    if user_id is None:
        raise ValueError("The user's id must be 1 to 255 characters, and no control characters.")
    return user_id
