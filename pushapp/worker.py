"""`flask push worker`: works the queue, outlives its database, and takes up what the dead have left."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import procrastinate
from flask import Flask
from procrastinate.exceptions import ConnectorException
from psycopg import OperationalError

from . import outbox
from .database import engine
from .jobs import DATABASE_RETRY, QUEUE, delivery_for, in_app, queue

DEFAULT_CONCURRENCY = 2  # slices that a worker sends at once
HEARTBEAT = 5  # seconds between a worker's signs of life
DEAD_AFTER = 20  # seconds without one: its slices are taken up by others
OPENING_TIMEOUT = 5  # seconds that the database is waited for at a time
POLL_INTERVAL = 1  # seconds between looks for what has become due

Connector = Callable[[], procrastinate.PsycopgConnector]

logger = logging.getLogger(__name__)


async def work(app: Flask, *, concurrency: int = DEFAULT_CONCURRENCY, drain: bool = False) -> None:
    """Work the queue of an application's database until a signal comes, or, to drain, until nothing is due.

    A database that goes away is waited for, unless it is to drain.
    """
    with app.app_context():
        url = engine().url.set(drivername="postgresql").render_as_string(hide_password=False)
        delivery_for_app = delivery_for(app)

    def connector() -> procrastinate.PsycopgConnector:
        return procrastinate.PsycopgConnector(
            conninfo=url, min_size=1, max_size=concurrency + 2, kwargs={"connect_timeout": 2}, timeout=5
        )

    async with delivery_for_app as delivery:
        options: dict[str, Any] = {
            "queues": [QUEUE],
            "concurrency": 2 * concurrency + 2,  # some may have to wait for a silent push service
            "wait": not drain,
            "delete_jobs": "always",
            "fetch_job_polling_interval": POLL_INTERVAL,
            "update_heartbeat_interval": HEARTBEAT,
            "stalled_worker_timeout": DEAD_AFTER,
            "additional_context": {"app": app, "delivery": delivery, "turns": asyncio.Semaphore(concurrency)},
            "install_signal_handlers": False,
        }
        stop = _stop_event()
        gc.freeze()  # what is loaded now stays: no need to look through it for garbage again and again
        if drain:
            await _drain(app, connector, options, stop)
        while not drain and not stop.is_set():
            await _work_until_interrupted(connector, options, stop)


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


@asynccontextmanager
async def _opened(connector: Connector) -> AsyncIterator[procrastinate.App]:
    # A connector that could not be opened cannot be opened again: each time it is another.
    with queue.replace_connector(connector()) as worker_queue:
        try:
            async with asyncio.timeout(OPENING_TIMEOUT):
                await worker_queue.open_async()
            yield worker_queue
        finally:
            await worker_queue.close_async()


async def _drain(app: Flask, connector: Connector, options: dict[str, Any], stop: asyncio.Event) -> None:
    # What is worked may bring more to do, so once is not enough; but what is in nobody's power to do
    # now must not keep us.
    before: outbox.Backlog | None = None
    async with _opened(connector) as worker_queue:
        await _take_up_the_dead(worker_queue)
    while not stop.is_set():
        await _run(connector, options, stop)
        after = await in_app(app, outbox.backlog)
        if after.slices == 0 or after == before:
            return
        before = after


async def _work_until_interrupted(connector: Connector, options: dict[str, Any], stop: asyncio.Event) -> None:
    # The queue's worker ends when it is told to, and when it loses the database.
    reason = "connection lost"
    try:
        await _run(connector, options, stop)
    except (ConnectorException, OperationalError, TimeoutError) as error:
        reason = type(error.__cause__ or error).__name__
    if not stop.is_set():
        logger.warning("the database does not answer: %s", reason)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), DATABASE_RETRY)


async def _run(connector: Connector, options: dict[str, Any], stop: asyncio.Event) -> None:
    async with _opened(connector) as worker_queue:
        stopped = asyncio.create_task(stop.wait())
        rescue = asyncio.create_task(_keep_taking_up_the_dead(worker_queue))
        worker = asyncio.create_task(worker_queue.run_worker_async(**options))
        try:
            await asyncio.wait([worker, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not worker.done():
                worker.cancel()  # which lets what is in flight finish
            with suppress(asyncio.CancelledError):
                await worker
        finally:
            stopped.cancel()
            rescue.cancel()


async def _keep_taking_up_the_dead(worker_queue: procrastinate.App) -> None:
    # Not at once: after an outage the living need a moment to say that they are.
    while True:
        await asyncio.sleep(DEAD_AFTER / 2)
        with suppress(ConnectorException, OperationalError):
            await _take_up_the_dead(worker_queue)


async def _take_up_the_dead(worker_queue: procrastinate.App) -> None:
    manager = worker_queue.job_manager
    for job in await manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=DEAD_AFTER):
        with suppress(ConnectorException):  # another worker may have been first
            await manager.retry_job(job)
            logger.warning("job %s of a worker that is dead is taken up again", job.id)
