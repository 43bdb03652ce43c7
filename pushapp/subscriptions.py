"""Queries of browsers on subscriptions; every query is scoped to its user, or to the browser's secret."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flask import current_app
from sqlalchemy import (
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
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import UpdateBase

from .database import autocommit, deadline_after, transaction
from .extensions import INSERTS
from .models import PushSubscription, hash_endpoint, hash_possession
from .statements import FrequentStatement

RENEWAL_TRIES = 5
ADVISORY_LOCK_KEY = 0x70757368  # "push"; taken by writes to several rows, which are rare


@dataclass(frozen=True, slots=True)
class Subscription:
    """The stored parts of a browser's `PushSubscription`; without a label the stored one stays."""

    endpoint: str
    p256dh: str
    auth: str
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
_same_row = and_(
    _same_browser,
    _column.expires_at.is_not_distinct_from(bindparam("expires_at")),
    func.coalesce(bindparam("label", type_=_column.label.type), _column.label).is_not_distinct_from(
        _column.label
    ),
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
_DELETE = delete(_table).where(_own, _same_endpoint)
_DELETE_BY_ID = delete(_table).where(_BY_ID)
_DELETE_OF_OTHERS = delete(_table).where(_same_browser_of_other)
_DELETE_OLDEST = delete(_table).where(
    _own,
    not_(_same_endpoint),
    _column.id.not_in(
        select(_column.id)
        .where(_own, not_(_same_endpoint))
        .order_by(_column.updated_at.desc(), _column.id.desc())
        .limit(bindparam("limit"))
    ),
)


def _upsert(dialect: str) -> UpdateBase:
    new = ("user_id", "endpoint", "endpoint_hash", "label", "created_at")
    renewed = ("keys_p256dh", "keys_auth", "expires_at", "updated_at")
    row = INSERTS[dialect](_table).values({name: bindparam(name) for name in new + renewed})
    changed: dict[str, Any] = {name: row.excluded[name] for name in renewed}
    changed["label"] = func.coalesce(row.excluded.label, _column.label)
    statement: UpdateBase = row.on_conflict_do_update(
        index_elements=["user_id", "endpoint_hash"], set_=changed
    )
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
    row = row_for(user_id, subscription)
    deadline = deadline_after()
    state = _read_state(row, deadline)
    is_new = not (state.is_stored or state.is_replaced or state.is_owned_by_other)
    if is_new and state.others < limit:
        _UPSERT.execute(row, deadline)
        state = _read_state(row, deadline)
    if state.is_replaced and not state.is_owned_by_other:
        # This request was sent before the browser's renewal was stored, and arrived after it.
        return remove(user_id, subscription.endpoint)
    if state.is_stored and not state.is_owned_by_other and state.total <= limit:
        return state.total
    return _reconcile(row, limit, deadline)


def renew(endpoint: str, auth: str, subscription: Subscription) -> bool:
    """Replace the subscription with this endpoint and `auth`, and return whether it existed.

    The row keeps its id, user and label, and a row that has the new endpoint already is deleted. Whoever has
    the old `auth` is the browser: no user is asked for.
    """
    old = {"endpoint_hash": hash_endpoint(endpoint), "keys_auth": auth}
    deadline = deadline_after()
    for _ in range(RENEWAL_TRIES):
        try:
            with transaction(deadline) as connection:
                return _replace(connection, old, hash_possession(endpoint, auth), subscription)
        except IntegrityError:  # a concurrent request has stored the new endpoint: now it is visible
            continue
    return False


def remove(user_id: str, endpoint: str) -> int:
    """Delete a user's subscription by its endpoint, if it exists, and return the user's count."""
    with autocommit() as connection:
        connection.execute(_DELETE, {"user_id": user_id, "endpoint_hash": hash_endpoint(endpoint)})
        return connection.execute(_COUNT, {"user_id": user_id}).scalar_one()


def remove_by_id(user_id: str, subscription_id: int) -> bool:
    """Delete a user's subscription by its id, and return whether it existed."""
    with autocommit() as connection:
        return connection.execute(_DELETE_BY_ID, _id(user_id, subscription_id)).rowcount > 0


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


def _id(user_id: str, subscription_id: int) -> dict[str, Any]:
    return {"user_id": user_id, "subscription_id": subscription_id}


def row_for(user_id: str, subscription: Subscription) -> dict[str, Any]:
    """Return the values of a new row by column, and `possession`, which finds the row that replaced it."""
    now = datetime.now(UTC)
    return {
        "user_id": user_id,
        "endpoint": subscription.endpoint,
        "endpoint_hash": hash_endpoint(subscription.endpoint),
        "keys_p256dh": subscription.p256dh,
        "keys_auth": subscription.auth,
        "label": subscription.label,
        "expires_at": subscription.expires_at,
        "created_at": now,
        "updated_at": now,
        "possession": hash_possession(subscription.endpoint, subscription.auth),
    }


def _read_state(row: Mapping[str, Any], deadline: float) -> _State:
    ((total, others, stored, replaced, owned_by_other),) = _SELECT_STATE.execute(row, deadline)
    one_user = current_app.config["PUSH_BROWSER_HAS_ONE_USER"]
    return _State(total, others, stored > 0, replaced > 0, bool(owned_by_other) and one_user)


def lock(connection: Connection) -> None:
    """Serialize transactions that write several rows, to avoid deadlocks."""
    # On SQLite the first write locks the file.
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK_KEY)))


def _reconcile(row: Mapping[str, Any], limit: int, deadline: float) -> int:
    while True:
        with transaction(deadline) as connection:
            lock(connection)
            connection.execute(_UPSERTS[connection.dialect.name], row)
            if current_app.config["PUSH_BROWSER_HAS_ONE_USER"]:
                connection.execute(_DELETE_OF_OTHERS, row)
            connection.execute(_DELETE_OLDEST, {**row, "limit": limit - 1})
        state = _read_state(row, deadline)
        # Not stored: a later request has reassigned the browser or changed its keys.
        if state.total <= limit and not (state.is_stored and state.is_owned_by_other):
            return state.total


def _replace(
    connection: Connection, old: Mapping[str, Any], possession: bytes, subscription: Subscription
) -> bool:
    lock(connection)
    replaced = connection.execute(_SELECT_REPLACED, old).all()
    one_user = current_app.config["PUSH_BROWSER_HAS_ONE_USER"]
    for position, (row_id, user_id) in enumerate(replaced):
        row = row_for(user_id, subscription)
        if position and one_user:
            connection.execute(_DELETE_BY_ID, _id(user_id, row_id))
            continue
        connection.execute(_DELETE_SAME_ENDPOINT, row | {"subscription_id": row_id})
        if one_user:
            connection.execute(_DELETE_OF_OTHERS, row)
        changed = {name: row[name] for name in _RENEWED} | {"renewed_from": possession}
        connection.execute(update(_table).where(_column.id == row_id).values(changed))
    return bool(replaced)


_RENEWED = ("endpoint", "endpoint_hash", "keys_p256dh", "keys_auth", "expires_at", "updated_at")
_SELECT_REPLACED = (
    select(_column.id, _column.user_id)
    .where(_same_endpoint, _column.keys_auth == bindparam("keys_auth"))
    .order_by(_column.updated_at.desc(), _column.id.desc())
    .with_for_update()
)
_DELETE_SAME_ENDPOINT = delete(_table).where(_own, _same_endpoint, _column.id != bindparam("subscription_id"))
