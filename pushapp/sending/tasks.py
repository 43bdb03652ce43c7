"""Tasks of the queue: fan out a broadcast, deliver a batch, delete what is old."""

import asyncio
import logging
from contextlib import nullcontext

import procrastinate

from . import batches, failures, outbox
from .delivery import DATABASE_RETRY, deliver_batch, run_in_thread
from .queue import DELIVER, DIRECT_PRIORITY, FAN_OUT, QUEUE

MAX_SLOT_HOLD = 1  # seconds

logger = logging.getLogger(__name__)

procrastinate_app = procrastinate.App(connector=procrastinate.PsycopgConnector())
_retry_forever = procrastinate.RetryStrategy(wait=DATABASE_RETRY)


@procrastinate_app.task(name=FAN_OUT, queue=QUEUE, retry=_retry_forever, pass_context=True)
async def fan_out(context: procrastinate.JobContext, *, batch_id: int) -> None:
    """Create a broadcast's batches; the first are sent before the last are created."""

    def create_batches() -> int:
        return sum(len(chunk) for chunk in batches.fan_out(batch_id))

    created = await run_in_thread(context.additional_context["app"], create_batches)
    logger.info("batch %d: fanned out to %d batches", batch_id, created)


@procrastinate_app.task(name=DELIVER, queue=QUEUE, retry=_retry_forever, pass_context=True)
async def deliver(context: procrastinate.JobContext, *, batch_id: int) -> None:
    """Send a batch and schedule its retries.

    Batches of broadcasts share concurrency slots, and release theirs when they take longer than
    MAX_SLOT_HOLD: they are waiting for a push service. Direct messages need no slot.
    """
    app, client, slots = (context.additional_context[name] for name in ("app", "client", "slots"))
    is_direct = context.job.priority >= DIRECT_PRIORITY
    async with nullcontext() if is_direct else slots:
        delivery = asyncio.create_task(deliver_batch(app, client, batch_id))
        await asyncio.wait([delivery], timeout=MAX_SLOT_HOLD)
    await delivery


@procrastinate_app.periodic(cron="17 3 * * *")
@procrastinate_app.task(name="pushapp.prune", queue=QUEUE, retry=_retry_forever, pass_context=True)
async def prune(context: procrastinate.JobContext, timestamp: int) -> None:
    """Delete expired subscriptions and old finished messages, every night."""
    await run_in_thread(context.additional_context["app"], failures.prune)
    await run_in_thread(context.additional_context["app"], outbox.prune)
