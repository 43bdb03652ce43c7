"""The worker's part that posts to the webhook, on a queue of its own."""

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import procrastinate
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job
from psycopg import OperationalError

from .tasks import procrastinate_app
from .webhook import QUEUE, TASK
from .webhook_client import MAX_CONNECTIONS, WebhookClient, WebhookError

# Seconds until the next attempt: eight attempts within 28 hours
RETRY_DELAYS = (5, 30, 5 * 60, 30 * 60, 2 * 3600, 8 * 3600, 17 * 3600)
STALLED_AFTER = 20  # seconds without a heartbeat of the worker that has the job


class Backoff(procrastinate.BaseRetryStrategy):
    """Waits for RETRY_DELAYS, with jitter."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> procrastinate.RetryDecision | None:
        """Return when a job is to run again; None after its last attempt."""
        if job.attempts >= len(RETRY_DELAYS):
            return None
        jitter = random.uniform(1, 1.1)  # noqa: S311  # not a secret
        delay = timedelta(seconds=RETRY_DELAYS[job.attempts] * jitter)
        return procrastinate.RetryDecision(retry_at=datetime.now(UTC) + delay)


@procrastinate_app.task(name=TASK, queue=QUEUE, retry=Backoff(), pass_context=True)
async def post(context: procrastinate.JobContext, *, webhook_id: str, body: str) -> None:
    """Post an event; try again later if the receiver does not take it."""
    client: WebhookClient = context.additional_context["webhook"]
    try:
        await client.post(webhook_id, body)
    except WebhookError as error:
        is_last = context.job.attempts >= len(RETRY_DELAYS)
        client.log(error, is_last=is_last)
        if not is_last:
            raise


async def run(queue: procrastinate.App, client: WebhookClient, options: dict[str, Any]) -> None:
    """Post events until the task is cancelled, or until none is due; `options` are the worker's."""
    own = {"queues": [QUEUE], "concurrency": MAX_CONNECTIONS, "additional_context": {"webhook": client}}
    await _retry_stalled(queue)
    retry_task = asyncio.create_task(_retry_stalled_forever(queue))
    try:
        await queue.run_worker_async(**options | own)
    finally:
        retry_task.cancel()


async def _retry_stalled_forever(queue: procrastinate.App) -> None:
    while True:
        await asyncio.sleep(STALLED_AFTER / 2)
        with suppress(ConnectorException, OperationalError):
            await _retry_stalled(queue)


async def _retry_stalled(queue: procrastinate.App) -> None:
    # The posts of a killed worker. The receiver knows the id of one that it has already.
    manager = queue.job_manager
    for job in await manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=STALLED_AFTER):
        with suppress(ConnectorException):  # another worker was first
            await manager.retry_job(job)
