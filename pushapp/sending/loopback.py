"""Delivery of a suppressed message: at once, in this process, to fake browsers alone."""

import secrets

from flask import current_app
from sqlalchemy import select

from ..database import autocommit, transaction
from ..models import MAX_ID, PushBatch
from ..webpush.encryption import encrypt
from ..webpush.responses import SENT
from . import batches, claims, recording
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
                _deliver_batch(batch_id, owner)


def _due_batches(message_id: int) -> list[tuple[int, int]]:
    with autocommit() as connection:
        is_due = (_batch.due_at <= database_time(connection)) & _batch.claimed_at.is_(None)
        found = select(_batch.id, _batch.size).where(_batch.message_id == message_id, is_due)
        return [(batch_id, size) for batch_id, size in connection.execute(found)]


def _deliver_batch(batch_id: int, owner: int) -> None:
    batch = claims.claim(batch_id, owner)
    if batch is None:
        return
    payload, browsers = batch.message.payload(), fake_browsers(current_app)
    for recipient in batch.recipients:
        if take := browsers.get(recipient.endpoint):
            take(encrypt(payload, recipient.keys_p256dh, recipient.keys_auth))
    outcomes = [(recipient, SENT) for recipient in batch.recipients]
    report = recording.Report(outcomes=outcomes, missing=batch.size - len(outcomes))
    with transaction() as connection:
        recording.record(connection, batch, owner, report)
