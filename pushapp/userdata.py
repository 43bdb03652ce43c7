"""All that is stored of a user: delete it, or export it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Text, bindparam, cast, delete, func, or_, select, update

from .channels import channels_of
from .database import autocommit, transaction
from .models import (
    PushBatch,
    PushChannelMember,
    PushFailure,
    PushMessage,
    PushOutcome,
    PushReceipt,
    PushReceiptCount,
    PushSubscription,
    normalize_user_id,
)
from .subscriptions import lock

WINDOW = 500  # messages a statement: push_messages has no index of users, and lists may be long
LISTS = ("user_ids", "exclude")  # of an audience

_subscription = PushSubscription.__table__.c
_failure = PushFailure.__table__.c
_message = PushMessage.__table__.c
_receipt = PushReceipt.__table__.c
_own = _subscription.user_id == bindparam("user_id")
_in_window = _message.id.between(bindparam("first_id"), bindparam("last_id"))
_own_message = _message.user_id == bindparam("user_id")
_own_messages = select(_message.id).where(_in_window, _own_message)

# In this order: the last statement of each deletes the rows that the others find theirs by.
_DELETE_SUBSCRIPTIONS = (
    select(_subscription.id).where(_own).order_by(_subscription.id).with_for_update(),  # as recording does
    delete(PushReceipt.__table__).where(_receipt.subscription_id.in_(select(_subscription.id).where(_own))),
    delete(PushChannelMember.__table__).where(PushChannelMember.__table__.c.user_id == bindparam("user_id")),
    delete(PushFailure.__table__).where(_failure.subscription_id.in_(select(_subscription.id).where(_own))),
    delete(PushSubscription.__table__).where(_own),
)
_DELETE_MESSAGES = (
    _own_messages.with_for_update(key_share=True),  # a message before its batches, as `cancel` does
    delete(PushBatch.__table__).where(PushBatch.__table__.c.message_id.in_(_own_messages)),
    delete(PushOutcome.__table__).where(PushOutcome.__table__.c.message_id.in_(_own_messages)),
    delete(PushReceipt.__table__).where(_receipt.message_id.in_(_own_messages)),
    delete(PushReceiptCount.__table__).where(PushReceiptCount.__table__.c.message_id.in_(_own_messages)),
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
        _subscription.vapid_key,
        _failure.failures,
        _failure.since.label("failing_since"),
    )
    .outerjoin(PushFailure.__table__, _failure.subscription_id == _subscription.id)
    .where(_own)
    .order_by(_subscription.id)
)
_SELECT_RECEIPTS = (
    select(_receipt.message_id, _receipt.subscription_id, _receipt.event)
    .join(PushSubscription.__table__, _subscription.id == _receipt.subscription_id)
    .where(_own)
    .order_by(_receipt.message_id, _receipt.subscription_id)
)
# Those to the user alone, and those whose lists may have the user: the JSON text has the id in quotes.
_SELECT_MESSAGES = (
    select(_message.id, _message.created_at, _message.message, _message.user_id, _message.audience)
    .where(
        _in_window,
        or_(
            _own_message,
            func.replace(cast(_message.audience, Text), bindparam("quoted"), "")
            != cast(_message.audience, Text),
        ),
    )
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
    """Delete all that is stored of a user: subscriptions, channels, and messages, also those not sent yet.

    Lists of users and `exclude` go on without the user. What a push service was given before may still
    arrive. Interrupted, it can be called again.

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
            _remove_from_lists(connection, window)
    return Erased(subscriptions[-1].rowcount, messages)


def export(user: str | int) -> dict[str, Any]:
    """Return all that is stored of a user, as JSON values and aware datetimes.

    Raises ValueError for an invalid user id.
    """
    user_id = _user_id(user)
    with autocommit() as connection:
        subscriptions = connection.execute(_SELECT_SUBSCRIPTIONS, {"user_id": user_id}).mappings().all()
        receipts = connection.execute(_SELECT_RECEIPTS, {"user_id": user_id}).mappings().all()
    messages: list[dict[str, Any]] = []
    excluded_from: list[int] = []
    for window in _windows(user_id):
        with autocommit() as connection:
            found = connection.execute(_SELECT_MESSAGES, window).all()
        for row in found:
            audience = row.audience or {}
            if row.user_id == user_id or user_id in audience.get("user_ids", ()):
                messages.append({"id": row.id, "created_at": row.created_at, "message": row.message})
            if user_id in audience.get("exclude", ()):
                excluded_from.append(row.id)
    return {
        "user_id": user_id,
        "channels": channels_of(user_id),
        "subscriptions": [dict(row) for row in subscriptions],
        "messages": messages,
        "excluded_from_messages": excluded_from,
        "receipts": [dict(row) for row in receipts],
    }


def _remove_from_lists(connection: Connection, window: Mapping[str, Any]) -> None:
    user_id = window["user_id"]
    for row in connection.execute(_SELECT_MESSAGES.with_for_update(key_share=True), window).all():
        lists = {
            name: [each for each in row.audience[name] if each != user_id]
            for name in LISTS
            if user_id in row.audience.get(name, ())
        }
        # An empty `exclude` is none; a list of users has others, or the message would have been deleted.
        audience = {name: value for name, value in {**row.audience, **lists}.items() if value != []}
        if lists:
            this_message = update(PushMessage.__table__).where(_message.id == row.id)
            connection.execute(this_message.values(audience=audience or None))


def _windows(user_id: str) -> Iterator[dict[str, Any]]:
    after_id: int | None = 0
    while after_id is not None:
        first_id = after_id + 1
        with autocommit() as connection:
            after_id = connection.execute(_LAST_ID, {"after_id": after_id, "limit": WINDOW}).scalar()
        if after_id is not None:
            ids = {"first_id": first_id, "last_id": after_id}
            yield {"user_id": user_id, "quoted": json.dumps(user_id), **ids}


def _user_id(user: str | int) -> str:
    user_id = normalize_user_id(user)
    if user_id is None:
        raise ValueError("The user's id must be 1 to 255 characters, and no control characters.")
    return user_id
