"""Queries of browsers on subscriptions; every query is scoped to its user, or to the browser's secret."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flask import current_app
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    delete,
    exists,
    func,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import UpdateBase

from . import keys
from .changes import Changes
from .database import autocommit, deadline_after, transaction
from .dialects import INSERTS
from .models import PushSubscription, hash_endpoint, hash_possession
from .statements import DriverConnection, FrequentStatement, driver_connection

ADVISORY_LOCK_KEY = 0x70757368  # "push"; taken by writes to several rows, which are rare


@dataclass(frozen=True, slots=True)
class Subscription:
    """The stored parts of a browser's `PushSubscription`.

    Without a label or a VAPID key the stored one stays; a new row has the current key.
    """

    endpoint: str
    p256dh: str
    auth: str
    vapid_key: str | None = None
    expires_at: datetime | None = None
    label: str | None = None


# The statements are built once. Parameters are named after columns, so that one dict binds them all.
_table = PushSubscription.__table__
_column = _table.c
_own = _column.user_id == bindparam("user_id")
_same_endpoint = _column.endpoint_hash == bindparam("endpoint_hash")
_same_browser = and_(
    _same_endpoint,
    _column.keys_p256dh == bindparam("keys_p256dh"),
    _column.keys_auth == bindparam("keys_auth"),
)


def given_or_stored(name: str, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a parameter, or the column where it is None."""
    return func.coalesce(bindparam(name, type_=column.type), column)


_same_row = and_(
    _same_browser,
    _column.expires_at.is_not_distinct_from(bindparam("expires_at")),
    given_or_stored("label", _column.label).is_not_distinct_from(_column.label),
    given_or_stored("given_key", _column.vapid_key).is_not_distinct_from(_column.vapid_key),
)
_replacement = _column.renewed_from == bindparam("possession", type_=_column.renewed_from.type)
_same_browser_of_other = and_(
    or_(_same_browser, _replacement),
    _column.user_id != bindparam("user_id"),
)

_COUNT = select(func.count()).select_from(_table).where(_own)
_state = select(
    func.count(),
    func.count().filter(not_(_same_endpoint)),
    func.count().filter(_same_row),
    func.count().filter(_replacement),
    exists().where(_same_browser_of_other).correlate(None),
).where(_own)
_SELECT_STATE = FrequentStatement(dict.fromkeys(INSERTS, _state))
_LISTED = (
    _column.id,
    _column.label,
    _column.endpoint,
    _column.created_at,
    _column.expires_at,
    _column.last_sent_at,
)
_LIST = select(*_LISTED).where(_own).order_by(_column.id)
_BY_ID = and_(_own, _column.id == bindparam("subscription_id"))
_GET = select(*_LISTED).where(_BY_ID)
_ID_OF = select(_column.id).where(_own, _same_endpoint)
_ROW = (_column.id, _column.user_id)
_DELETE = delete(_table).where(_own, _same_endpoint).returning(*_ROW)
DELETE_BY_ID = delete(_table).where(_BY_ID).returning(*_ROW)
DELETE_OF_OTHERS = delete(_table).where(_same_browser_of_other).returning(*_ROW)
_SELECT_KEY_OF_OTHERS = select(_column.vapid_key).where(_same_browser_of_other).limit(1)
_DELETE_OLDEST = (
    delete(_table)
    .where(
        _own,
        not_(_same_endpoint),
        _column.id.not_in(
            select(_column.id)
            .where(_own, not_(_same_endpoint))
            .order_by(_column.updated_at.desc(), _column.id.desc())
            .limit(bindparam("limit"))
        ),
    )
    .returning(*_ROW)
)


def _upsert(dialect: str) -> UpdateBase:
    new = ("user_id", "endpoint", "endpoint_hash", "label", "vapid_key", "created_at")
    renewed = ("keys_p256dh", "keys_auth", "expires_at", "updated_at")
    row = INSERTS[dialect](_table).values({name: bindparam(name) for name in new + renewed})
    changed: dict[str, Any] = {name: row.excluded[name] for name in renewed}
    changed["label"] = func.coalesce(row.excluded.label, _column.label)
    changed["vapid_key"] = given_or_stored("given_key", _column.vapid_key)
    statement: UpdateBase = row.on_conflict_do_update(
        index_elements=["user_id", "endpoint_hash"], set_=changed
    ).returning(_column.id, _column.created_at)
    return statement


_UPSERTS = {dialect: _upsert(dialect) for dialect in INSERTS}
_UPSERT = FrequentStatement(_UPSERTS)


class _State(NamedTuple):
    total: int  # the user's rows
    others: int  # those with other endpoints
    is_stored: bool  # whether this very row is one of them
    is_replaced: bool  # whether a renewal has replaced this subscription
    is_owned_by_other: bool  # whether the browser has to move here from another user


def save(user_id: str, subscription: Subscription) -> int:
    """Store a user's subscription, one row per user and endpoint, and return the user's count.

    A repeat writes nothing. A new row is one upsert, and the state is read again after it, since only
    committed rows of concurrent requests are visible. The rare writes to other rows are reconciled: the
    user is over the limit, or the browser has another user.
    """
    limit = current_app.config["PUSH_MAX_SUBSCRIPTIONS_PER_USER"]
    row = row_of(user_id, subscription)
    deadline = deadline_after()
    changes = Changes()
    with driver_connection(deadline) as connection:
        state = _read_state(connection, row)
        is_new = not (state.is_stored or state.is_replaced or state.is_owned_by_other)
        if is_new and state.others < limit:
            changes.store(row, _UPSERT.execute(connection, row))
            state = _read_state(connection, row)
    total = state.total
    if state.is_replaced and not state.is_owned_by_other:
        # This request was sent before the browser's renewal was stored, and arrived after it.
        total = _remove(user_id, subscription.endpoint, changes)
    elif not state.is_stored or state.is_owned_by_other or total > limit:
        total = _reconcile(row, limit, deadline, changes)
    changes.announce()
    return total


def remove(user_id: str, endpoint: str) -> int:
    """Delete a user's subscription by its endpoint, if it exists, and return the user's count."""
    changes = Changes()
    count = _remove(user_id, endpoint, changes)
    changes.announce()
    return count


def remove_by_id(user_id: str, subscription_id: int) -> bool:
    """Delete a user's subscription by its id, and return whether it existed."""
    changes = Changes()
    with autocommit() as connection:
        changes.delete(connection, DELETE_BY_ID, _id(user_id, subscription_id))
    return changes.announce()


def id_of(user_id: str, endpoint: str) -> int | None:
    """Return the id of a user's subscription with an endpoint, or None."""
    with autocommit() as connection:
        parameters = {"user_id": user_id, "endpoint_hash": hash_endpoint(endpoint)}
        subscription_id: int | None = connection.execute(_ID_OF, parameters).scalar()
        return subscription_id


def has(user_id: str, subscription_id: int) -> bool:
    """Return whether a user has a subscription with this id."""
    with autocommit() as connection:
        return connection.execute(_GET, _id(user_id, subscription_id)).one_or_none() is not None


def set_label(user_id: str, subscription_id: int, label: str) -> Any:
    """Set the label of a user's subscription, and return it as `list_for` does; None if there is none."""
    with autocommit() as connection:
        own = update(_table).where(_column.user_id == user_id, _column.id == subscription_id)
        connection.execute(own.values(label=label))
        return connection.execute(_GET, _id(user_id, subscription_id)).one_or_none()


def list_for(user_id: str) -> Sequence[Any]:
    """Return a user's subscriptions, oldest first: id, label, endpoint, and three times."""
    with autocommit() as connection:
        return connection.execute(_LIST, {"user_id": user_id}).all()


def _remove(user_id: str, endpoint: str, changes: Changes) -> int:
    row = {"user_id": user_id, "endpoint_hash": hash_endpoint(endpoint)}
    with autocommit() as connection:
        changes.delete(connection, _DELETE, row)
        return connection.execute(_COUNT, row).scalar_one()


def _id(user_id: str, subscription_id: int) -> dict[str, Any]:
    return {"user_id": user_id, "subscription_id": subscription_id}


def row_of(user_id: str, subscription: Subscription) -> dict[str, Any]:
    """Return the parameters of the statements for a user's subscription."""
    now = datetime.now(UTC)
    return {
        "user_id": user_id,
        "endpoint": subscription.endpoint,
        "endpoint_hash": hash_endpoint(subscription.endpoint),
        "keys_p256dh": subscription.p256dh,
        "keys_auth": subscription.auth,
        "vapid_key": subscription.vapid_key or keys.signers().public_key,
        "given_key": subscription.vapid_key,
        "label": subscription.label,
        "expires_at": subscription.expires_at,
        "created_at": now,
        "updated_at": now,
        "possession": hash_possession(subscription.endpoint, subscription.auth),
    }


def _read_state(connection: DriverConnection, row: Mapping[str, Any]) -> _State:
    ((total, others, stored, replaced, owned_by_other),) = _SELECT_STATE.execute(connection, row)
    one_user = current_app.config["PUSH_BROWSER_HAS_ONE_USER"]
    return _State(total, others, stored > 0, replaced > 0, bool(owned_by_other) and one_user)


def lock(connection: Connection) -> None:
    """Let writes to several rows take turns until the end of the transaction."""
    # Serialized, to avoid deadlocks over several rows. On SQLite the first write locks the file.
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK_KEY)))


def _reconcile(row: Mapping[str, Any], limit: int, deadline: float, changes: Changes) -> int:
    while True:
        with transaction(deadline) as connection:
            lock(connection)
            if row["given_key"] is None:
                # The browser that has to move here keeps its key.
                moved_key = connection.execute(_SELECT_KEY_OF_OTHERS, row).scalar()
                row = {**row, "vapid_key": moved_key or row["vapid_key"]}
            changes.store(row, connection.execute(_UPSERTS[connection.dialect.name], row).all())
            if current_app.config["PUSH_BROWSER_HAS_ONE_USER"]:
                changes.delete(connection, DELETE_OF_OTHERS, row)
            changes.delete(connection, _DELETE_OLDEST, {**row, "limit": limit - 1})
        with driver_connection(deadline) as committed:
            state = _read_state(committed, row)
        # Not stored: a later request has reassigned the browser or changed its keys.
        if state.total <= limit and not (state.is_stored and state.is_owned_by_other):
            return state.total
