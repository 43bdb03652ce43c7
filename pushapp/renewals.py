"""Renewals: a browser replaces its subscription by a new one."""

from collections.abc import Mapping
from typing import Any

from flask import current_app
from sqlalchemy import Connection, bindparam, delete, select, update
from sqlalchemy.exc import IntegrityError

from .changes import Changes
from .database import deadline_after, transaction
from .models import PushSubscription, hash_endpoint, hash_possession
from .subscriptions import DELETE_BY_ID, DELETE_OF_OTHERS, Subscription, lock, row_of

TRIES = 5

_table = PushSubscription.__table__
_column = _table.c
_same_endpoint = _column.endpoint_hash == bindparam("endpoint_hash")
_RENEWED = ("endpoint", "endpoint_hash", "keys_p256dh", "keys_auth", "vapid_key", "expires_at", "updated_at")
_SELECT_REPLACED = (
    select(_column.id, _column.user_id)
    .where(_same_endpoint, _column.keys_auth == bindparam("keys_auth"))
    .order_by(_column.updated_at.desc(), _column.id.desc())
    .with_for_update()
)
_DELETE_SAME_ENDPOINT = (
    delete(_table)
    .where(
        _column.user_id == bindparam("user_id"), _same_endpoint, _column.id != bindparam("subscription_id")
    )
    .returning(_column.id, _column.user_id)
)


def renew(endpoint: str, auth: str, subscription: Subscription) -> bool:
    """Replace the subscription with this endpoint and `auth`, and return whether it existed.

    The row keeps its id, user and label, and a row that has the new endpoint already is deleted. Whoever has
    the old `auth` is the browser: no user is asked for.
    """
    old = {"endpoint_hash": hash_endpoint(endpoint), "keys_auth": auth}
    deadline = deadline_after()
    for _ in range(TRIES):
        changes = Changes()
        try:
            with transaction(deadline) as connection:
                possession = hash_possession(endpoint, auth)
                found = _replace(connection, old, possession, subscription, changes)
        except IntegrityError:  # a concurrent request has stored the new endpoint: now it is visible
            continue
        changes.announce()
        return found
    return False


def _replace(
    connection: Connection,
    old: Mapping[str, Any],
    possession: bytes,
    subscription: Subscription,
    changes: Changes,
) -> bool:
    lock(connection)
    replaced = connection.execute(_SELECT_REPLACED, old).all()
    one_user = current_app.config["PUSH_BROWSER_HAS_ONE_USER"]
    for position, (row_id, user_id) in enumerate(replaced):
        row = row_of(user_id, subscription)
        if position and one_user:
            changes.delete(connection, DELETE_BY_ID, {"user_id": user_id, "subscription_id": row_id})
            continue
        changes.delete(connection, _DELETE_SAME_ENDPOINT, row | {"subscription_id": row_id})
        if one_user:
            changes.delete(connection, DELETE_OF_OTHERS, row)
        changed = {name: row[name] for name in _RENEWED} | {"renewed_from": possession}
        connection.execute(update(_table).where(_column.id == row_id).values(changed))
    return bool(replaced)
