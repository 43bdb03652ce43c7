"""Tasks of the queue: fan out a broadcast, deliver a batch, delete what is old.

A job only says that a batch is due. It ends when this process has claimed the batch: from then on the claim
protects it. `claims.requeue_lost` replaces jobs that are lost, so the queue itself retries none.
"""

import logging

import procrastinate

from ..database import transaction
from . import batches, failures, outbox, statistics
from .clock import database_time
from .delivery import Engine
from .queue import DELIVER, DIRECT_PRIORITY, FAN_OUT, QUEUE, ScheduledBatch, enqueue

MAX_WAIT = 0.5  # seconds for capacity; then the job gives way to messages to users

logger = logging.getLogger(__name__)

procrastinate_app = procrastinate.App(connector=procrastinate.PsycopgConnector())


@procrastinate_app.task(name=FAN_OUT, queue=QUEUE, pass_context=True)
async def fan_out(context: procrastinate.JobContext, *, batch_id: int) -> None:
    """Create a broadcast's batches; the first are sent before the last are created."""
    engine: Engine = context.additional_context["engine"]

    def next_part() -> list[ScheduledBatch] | None:
        return next(batches.fan_out(batch_id), None)

    created = 0
    while not engine.is_stopped:
        part = await engine.run(next_part)
        created += len(part or [])
        if part is None:
            logger.info("batch %d: fanned out to %d batches", batch_id, created)
            return
    await engine.run(_enqueue_again, FAN_OUT, batch_id, context.job.priority)


@procrastinate_app.task(name=DELIVER, queue=QUEUE, pass_context=True)
async def deliver(context: procrastinate.JobContext, *, batch_id: int) -> None:
    """Claim a batch and begin to send it. A broadcast waits for capacity."""
    engine: Engine = context.additional_context["engine"]
    is_direct = context.job.priority >= DIRECT_PRIORITY
    if not engine.is_stopped and (is_direct or await engine.wait_for_capacity(MAX_WAIT)):
        await engine.deliver(batch_id)
    else:
        await engine.run(_enqueue_again, DELIVER, batch_id, context.job.priority)


def _enqueue_again(task_name: str, batch_id: int, priority: int) -> None:
    with transaction() as connection:
        now = database_time(connection)
        enqueue(connection, task_name, [ScheduledBatch(batch_id, now)], priority)


@procrastinate_app.periodic(cron="17 3 * * *")
@procrastinate_app.task(name="pushapp.prune", queue=QUEUE, pass_context=True)
async def prune(context: procrastinate.JobContext, timestamp: int) -> None:
    """Delete expired subscriptions and old finished messages, every night."""
    engine: Engine = context.additional_context["engine"]
    await engine.run(failures.prune)
    await engine.run(outbox.prune)


@procrastinate_app.periodic(cron="7 * * * *")
@procrastinate_app.task(name="pushapp.count", queue=QUEUE, pass_context=True)
async def count(context: procrastinate.JobContext, timestamp: int) -> None:
    """Store today's count of subscriptions, every hour."""
    engine: Engine = context.additional_context["engine"]
    await engine.run(statistics.record_daily_counts)
