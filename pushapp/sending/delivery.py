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

from ..config import vapid_signer
from ..database import deadline_after, is_transient, summarize, transaction
from ..webpush.client import Client
from . import batches
from .loopback import LoopbackClient
from .queue import ScheduledBatch
from .suppression import fake_browsers, is_suppressed

DATABASE_RETRY = 2  # seconds
RECORDING_TIMEOUT = 10  # seconds

T = TypeVar("T")

logger = logging.getLogger(__name__)


def create_client(app: Flask) -> Client:
    """Return a client with an application's VAPID key and trusted push services."""
    arguments = vapid_signer().authorization, app.config["PUSH_TRUSTED_PUSH_SERVICES"]
    observe = app.extensions.get("push_observer")
    browsers, suppressed = fake_browsers(app), is_suppressed(app)
    if browsers or suppressed:
        return LoopbackClient(*arguments, observe=observe, browsers=browsers, is_suppressed=suppressed)
    return Client(*arguments, observe=observe)


async def deliver_batch(
    app: Flask, client: Client, batch_id: int, retry_window: timedelta | None = None
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
        message.payload(),
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
