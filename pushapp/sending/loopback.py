"""Delivery of a suppressed message: at once, in this process, to fake browsers alone."""

import secrets

from flask import current_app
from sqlalchemy import select

from ..database import autocommit
from ..models import MAX_ID, PushBatch
from ..webpush.encryption import encrypt
from ..webpush.receipts import add_receipt
from ..webpush.responses import SENT
from . import batches, claims, events, receipts, recording
from .clock import database_time
from .suppression import fake_browsers

_batch = PushBatch.__table__.c


def deliver(message_id: int) -> None:
    """Hand what is due of a message to fake browsers, and record it as sent to all recipients."""
    owner = secrets.randbelow(MAX_ID)
    while due := _due_batches(message_id):
        for batch_id, size in due:
            if size == batches.FAN_OUT_PENDING:
                list(batches.fan_out(batch_id))
            else:
                _deliver_batch(message_id, batch_id, owner)


def _due_batches(message_id: int) -> list[tuple[int, int]]:
    with autocommit() as connection:
        is_due = (_batch.due_at <= database_time(connection)) & _batch.claimed_at.is_(None)
        found = select(_batch.id, _batch.size).where(_batch.message_id == message_id, is_due)
        return [(batch_id, size) for batch_id, size in connection.execute(found)]


def _deliver_batch(message_id: int, batch_id: int, owner: int) -> None:
    batch = claims.claim(batch_id, owner)
    if batch is None:
        return
    payload, browsers = batch.message.payload(), fake_browsers(current_app)
    tokens = receipts.tokens() if current_app.config["PUSH_RECEIPTS"] else None
    for recipient in batch.recipients:
        if take := browsers.get(recipient.endpoint):
            token = tokens and tokens.create(message_id, recipient.id)
            own_payload = add_receipt(payload, token) if token else payload
            take(encrypt(own_payload, recipient.keys_p256dh, recipient.keys_auth))
    outcomes = [(recipient, SENT) for recipient in batch.recipients]
    report = recording.Report(outcomes=outcomes, missing=batch.size - len(outcomes))
    with events.recorded() as (connection, happened):
        events.lock(connection, message_id)
        if recording.record(connection, batch, owner, report) is not None:
            happened.extend(events.done(connection, message_id))
