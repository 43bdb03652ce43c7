"""Receipts: what browsers report of a message, each event once a device."""

from collections.abc import Mapping, Sequence
from typing import Any

from flask import current_app
from sqlalchemy import ColumnElement, Connection, delete, func, literal_column, select, text

from ..database import autocommit, engine, transaction
from ..models import PushReceipt, PushReceiptCount, PushSubscription
from ..webpush.receipts import Tokens
from . import events

CLICKED = "clicked"
EVENTS = ("shown", CLICKED, "closed")
SHARDS = 16  # rows a count: those who report at once would wait for a single one
DELETE_BATCH_SIZE = 5_000  # receipts a transaction

_receipt = PushReceipt.__table__.c
_count = PushReceiptCount.__table__.c
_subscription = PushSubscription.__table__.c
_ROW_ID: dict[str, ColumnElement[Any]] = {
    "postgresql": literal_column("ctid"),
    "sqlite": literal_column("rowid"),
}

# The message may have been deleted since.
_INSERT = """
INSERT INTO push_receipts (message_id, subscription_id, event)
SELECT CAST(:message_id AS bigint), CAST(:subscription_id AS bigint), :event
WHERE EXISTS (SELECT 1 FROM push_messages WHERE id = :message_id)
ON CONFLICT DO NOTHING RETURNING message_id, event"""
_ADD_TO_COUNT = """
INSERT INTO push_receipt_counts (message_id, event, shard, count)
SELECT message_id, event, :shard, 1 FROM {added} WHERE true
ON CONFLICT (message_id, event, shard) DO UPDATE SET count = push_receipt_counts.count + 1
RETURNING shard"""
_RECORD = text(f"WITH added AS ({_INSERT}) {_ADD_TO_COUNT.format(added='added')}")
_INSERT_ON_SQLITE = text(_INSERT)
_ADD_ON_SQLITE = text(_ADD_TO_COUNT.format(added="(SELECT :message_id AS message_id, :event AS event)"))


def tokens() -> Tokens:
    """Return what creates and verifies the tokens of the current application."""
    fallbacks = current_app.config.get("SECRET_KEY_FALLBACKS") or []
    return Tokens([current_app.config["SECRET_KEY"], *fallbacks])


def record(message_id: int, subscription_id: int, event: str, action: str | None = None) -> None:
    """Record and count an event of a device, unless it is recorded already.

    Events of messages that have been deleted are ignored.
    """
    row = {"message_id": message_id, "subscription_id": subscription_id, "event": event}
    row["shard"] = subscription_id % SHARDS
    if event != CLICKED and engine().dialect.name == "postgresql":
        with autocommit() as connection:  # one statement, so the count is locked for a moment only
            _add(connection, row)
        return
    with events.recorded() as (connection, happened):
        if _add(connection, row) and event == CLICKED:
            of_subscription = select(_subscription.user_id).where(_subscription.id == subscription_id)
            data = {
                "message_id": message_id,
                "subscription_id": subscription_id,
                "user_id": connection.execute(of_subscription).scalar(),
                "action": action,
            }
            happened.append(events.Event("message.clicked", data))


def _add(connection: Connection, row: Mapping[str, Any]) -> bool:
    if connection.dialect.name == "postgresql":
        return connection.execute(_RECORD, row).first() is not None
    if connection.execute(_INSERT_ON_SQLITE, row).first() is None:
        return False
    connection.execute(_ADD_ON_SQLITE, row).all()
    return True


def counts(connection: Connection, message_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """Return how many devices reported each of EVENTS of messages, by message: lower bounds."""
    sums = select(_count.message_id, _count.event, func.sum(_count.count))
    grouped = sums.where(_count.message_id.in_(message_ids)).group_by(_count.message_id, _count.event)
    counted = {message_id: dict.fromkeys(EVENTS, 0) for message_id in message_ids}
    for message_id, event, number in connection.execute(grouped):
        counted[message_id][event] = int(number)
    return counted


def delete_of(message_ids: Sequence[int]) -> None:
    """Delete the receipts and counts of messages, in short transactions."""
    deleted = DELETE_BATCH_SIZE
    while deleted == DELETE_BATCH_SIZE:
        with transaction() as connection:
            row_id = _ROW_ID[connection.dialect.name]
            some = (
                select(row_id)
                .select_from(PushReceipt.__table__)
                .where(_receipt.message_id.in_(message_ids))
                .limit(DELETE_BATCH_SIZE)
            )
            deleted = connection.execute(delete(PushReceipt.__table__).where(row_id.in_(some))).rowcount
    with transaction() as connection:
        connection.execute(delete(PushReceiptCount.__table__).where(_count.message_id.in_(message_ids)))
