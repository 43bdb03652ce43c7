"""Deliver one batch: load it, post it to the push services, record the outcomes."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from .. import keys
from ..database import deadline_after, is_transient, summarize, transaction
from ..webpush.client import Client, Recipient
from ..webpush.receipts import add_receipt
from . import batches, receipts
from .push_services import PushServices
from .queue import ScheduledBatch

DATABASE_RETRY = 2  # seconds
RECORDING_TIMEOUT = 10  # seconds

T = TypeVar("T")

logger = logging.getLogger(__name__)


def create_client(app: Flask) -> PushServices:
    """Return a client with an application's VAPID keys and trusted push services."""
    client = Client(
        keys.signers().authorization,
        app.config["PUSH_TRUSTED_PUSH_SERVICES"],
        observe=app.extensions.get("push_observer"),
    )
    return PushServices(client)


async def deliver_batch(
    app: Flask, client: PushServices, batch_id: int, retry_window: timedelta | None = None
) -> tuple[Counter[str], list[ScheduledBatch]]:
    """Send a batch, record its outcomes, and return their counts and the batches to retry.

    Retries end with the TTL, or `retry_window` after the message was created if that is earlier.
    """
    started_at = time.monotonic()
    batch = await run_in_thread(app, batches.load_batch, batch_id)
    if batch is None:
        return Counter(), []
    message = batch.message
    retry_until = message.expires_at(batch.created_at)
    if retry_window is not None:
        retry_until = min(retry_until, batch.created_at + retry_window)
    outcomes = await client.deliver(
        batch.recipients,
        _payload_for(app, batch),
        ttl=message.remaining_ttl(batch.created_at, batch.attempts),
        urgency=message.urgency,
        topic=message.topic,
    )

    def record() -> tuple[Counter[str], list[ScheduledBatch]]:
        with transaction(deadline_after(RECORDING_TIMEOUT)) as connection:
            return batches.record_outcomes(connection, batch, outcomes, retry_until)

    counts, retries = await _record_with_retry(app, record)
    logger.info(
        "message %d, batch %d: %s in %.1f s",
        batch.message_id,
        batch_id,
        ", ".join(f"{number} {result}" for result, number in sorted(counts.items())) or "already recorded",
        time.monotonic() - started_at,
    )
    return counts, retries


def _payload_for(app: Flask, batch: batches.Batch) -> Callable[[Recipient], bytes]:
    """Return a function from a recipient to its payload."""
    payload = batch.message.payload()
    if not app.config["PUSH_RECEIPTS"]:
        return lambda _recipient: payload
    with app.app_context():
        tokens = receipts.tokens()
    return lambda recipient: add_receipt(payload, tokens.create(batch.message_id, recipient.id))


async def _record_with_retry(app: Flask, record: Callable[[], T]) -> T:
    # Already sent: retry until it is recorded, or the batch would be sent again.
    while True:
        try:
            return await run_in_thread(app, record)
        except SQLAlchemyError as error:
            if not is_transient(error):
                raise
            logger.warning("database unavailable: %s", summarize(error))
            await asyncio.sleep(DATABASE_RETRY)


async def run_in_thread(app: Flask, function: Callable[..., T], *arguments: Any) -> T:
    """Run blocking code in a thread, with an application context."""

    def run() -> T:
        with app.app_context():
            return function(*arguments)

    return await asyncio.to_thread(run)
