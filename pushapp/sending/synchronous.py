"""Synchronous delivery, for SQLite: in the process that calls `send`, before it returns."""

import asyncio
import heapq
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from flask.globals import app_ctx

from ..webpush.responses import Result
from .delivery import create_client, deliver_batch
from .queue import ScheduledBatch

RETRY_WINDOW = timedelta(seconds=30)


def deliver(scheduled: Sequence[ScheduledBatch], on_progress: Callable[[int], None]) -> None:
    """Deliver batches, with retries for RETRY_WINDOW; `on_progress` is called with numbers of recipients."""
    asyncio.run(_deliver(scheduled, on_progress))


async def _deliver(scheduled: Sequence[ScheduledBatch], on_progress: Callable[[int], None]) -> None:
    app = app_ctx.app
    pending = [(batch.run_at, batch.batch_id) for batch in scheduled]
    heapq.heapify(pending)
    async with create_client(app) as client:
        while pending:
            run_at, batch_id = heapq.heappop(pending)
            await asyncio.sleep((run_at - datetime.now(UTC)).total_seconds())
            counts, retries = await deliver_batch(app, client, batch_id, RETRY_WINDOW)
            on_progress(counts.total() - counts[Result.RETRY])
            for retry in retries:
                heapq.heappush(pending, (retry.run_at, retry.batch_id))
