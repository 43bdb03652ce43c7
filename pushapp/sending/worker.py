"""The worker: process the queue, survive database outages, retry stalled jobs."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import procrastinate
from flask import Flask, current_app
from procrastinate.exceptions import ConnectorException
from psycopg import OperationalError
from psycopg.errors import UndefinedFunction, UndefinedTable

from ..database import connection_parameters
from ..schema import QUEUE_SCHEMA
from . import batches
from .delivery import DATABASE_RETRY, create_client, run_in_thread
from .queue import QUEUE
from .tasks import procrastinate_app

DEFAULT_CONCURRENCY = 2  # batches of broadcasts that are sent concurrently
HEARTBEAT_INTERVAL = 5  # seconds
STALLED_AFTER = 20  # seconds without a heartbeat
CONNECT_TIMEOUT = 5  # seconds, per attempt
MISSING_SCHEMA = "the database has no queue yet"
POLL_INTERVAL = 1  # seconds between polls for due jobs

Connector = Callable[[], procrastinate.PsycopgConnector]

logger = logging.getLogger(__name__)


async def run_worker(app: Flask, *, concurrency: int = DEFAULT_CONCURRENCY, drain: bool = False) -> None:
    """Process the queue until SIGTERM or SIGINT, or until it is empty (drain).

    Reconnects after a database outage, except when draining.
    """
    with app.app_context():
        parameters = connection_parameters(f"search_path={QUEUE_SCHEMA}")
        push_client = create_client(app)

    def connector() -> procrastinate.PsycopgConnector:
        return procrastinate.PsycopgConnector(
            min_size=1,
            max_size=concurrency + 2,
            kwargs=parameters,
            timeout=5,
        )

    async with push_client as client:
        options: dict[str, Any] = {
            "queues": [QUEUE],
            "concurrency": 2 * concurrency + 2,  # headroom for jobs blocked on an unresponsive push service
            "wait": not drain,
            "delete_jobs": "always",
            "fetch_job_polling_interval": POLL_INTERVAL,
            "update_heartbeat_interval": HEARTBEAT_INTERVAL,
            "stalled_worker_timeout": STALLED_AFTER,
            "additional_context": {"app": app, "client": client, "slots": asyncio.Semaphore(concurrency)},
            "install_signal_handlers": False,
        }
        stop = _stop_event()
        gc.freeze()  # exclude long-lived objects from garbage collection
        if drain:
            await _drain(app, connector, options, stop)
        reason = ""
        while not drain and not stop.is_set():
            previous, reason = reason, await _run_until_disconnected(connector, options, stop)
            if not stop.is_set():
                await _log_and_wait(reason, previous, stop)


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


@asynccontextmanager
async def _open_queue(connector: Connector) -> AsyncIterator[procrastinate.App]:
    # A connector cannot be reopened after a failed open: create a new one.
    with procrastinate_app.replace_connector(connector()) as queue:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await queue.open_async()
            yield queue
        finally:
            await queue.close_async()


async def _drain(app: Flask, connector: Connector, options: dict[str, Any], stop: asyncio.Event) -> None:
    # Jobs may enqueue more jobs: repeat until the backlog is empty or stops changing.
    before: batches.Backlog | None = None
    async with _open_queue(connector) as queue:
        await _retry_stalled_jobs(queue)
    while not stop.is_set():
        await _run(connector, options, stop)
        after = await run_in_thread(app, batches.backlog)
        if after.batches == 0 or after == before:
            return
        before = after


async def _run_until_disconnected(connector: Connector, options: dict[str, Any], stop: asyncio.Event) -> str:
    """Return why the worker stopped."""
    try:
        await _run(connector, options, stop)
    except (ConnectorException, OperationalError, TimeoutError) as error:
        return describe(error)
    return "database unavailable: connection lost"


def describe(error: ConnectorException | OperationalError | TimeoutError) -> str:
    """Return what a database error means, in one line."""
    cause = error.__cause__ or error
    if isinstance(cause, UndefinedFunction | UndefinedTable):
        return f"{MISSING_SCHEMA}: run `flask {current_app.extensions['push_cli_group']} db upgrade`"
    return f"database unavailable: {type(cause).__name__}"


async def _log_and_wait(reason: str, previous: str, stop: asyncio.Event) -> None:
    if not reason.startswith(MISSING_SCHEMA):
        logger.warning("%s; reconnecting", reason)
    elif reason != previous:
        logger.error("%s; waiting for it", reason)
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), DATABASE_RETRY)


async def _run(connector: Connector, options: dict[str, Any], stop: asyncio.Event) -> None:
    # Returns on stop and on connection loss.
    async with _open_queue(connector) as queue:
        stop_task = asyncio.create_task(stop.wait())
        stalled_jobs_task = asyncio.create_task(_retry_stalled_jobs_forever(queue))
        worker = asyncio.create_task(queue.run_worker_async(**options))
        try:
            await asyncio.wait([worker, stop_task], return_when=asyncio.FIRST_COMPLETED)
            if not worker.done():
                worker.cancel()  # graceful shutdown: jobs in flight are finished
            with suppress(asyncio.CancelledError):
                await worker
        finally:
            stop_task.cancel()
            stalled_jobs_task.cancel()


async def _retry_stalled_jobs_forever(queue: procrastinate.App) -> None:
    # Wait first, so that healthy workers can send a heartbeat after an outage.
    while True:
        await asyncio.sleep(STALLED_AFTER / 2)
        with suppress(ConnectorException, OperationalError):
            await _retry_stalled_jobs(queue)


async def _retry_stalled_jobs(queue: procrastinate.App) -> None:
    manager = queue.job_manager
    for job in await manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=STALLED_AFTER):
        with suppress(ConnectorException):  # already retried by another worker
            await manager.retry_job(job)
            logger.warning("retrying stalled job %s", job.id)
