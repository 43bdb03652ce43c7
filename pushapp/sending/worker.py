"""The worker: process the queue, survive database outages, queue lost batches again."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import procrastinate
from flask import Flask, current_app
from procrastinate.exceptions import ConnectorException
from psycopg import OperationalError
from psycopg.errors import InvalidSchemaName, UndefinedFunction, UndefinedTable

from ..database import connection_parameters, engine
from ..schema import QUEUE_SCHEMA
from . import batches, claims, webhook_worker
from .delivery import DATABASE_RETRY, STOP_TIMEOUT, Engine
from .polling import poll
from .queue import DEFAULT_CONCURRENCY, QUEUE
from .tasks import procrastinate_app
from .webhook_client import WebhookClient

JOBS = 4  # batches that are loaded at once
GC_THRESHOLD = 20_000  # objects; by default collections take a sixth of the CPU of sending
HEARTBEAT_INTERVAL = 5  # seconds
STALLED_AFTER = 20  # seconds without a heartbeat
CONNECT_TIMEOUT = 5  # seconds, per attempt
MISSING_SCHEMA = "the database has no queue yet"
POLL_INTERVAL = 1  # seconds between polls for due jobs
REQUEUE_INTERVAL = 3  # seconds between looks for lost batches

Connector = Callable[[], procrastinate.PsycopgConnector]

logger = logging.getLogger(__name__)


async def run_worker(app: Flask, *, concurrency: int = DEFAULT_CONCURRENCY, drain: bool = False) -> None:
    """Process the queue until SIGTERM or SIGINT, or until nothing is due (drain).

    `concurrency` is the number of messages in flight at most. Reconnects after a database outage, except
    when draining.
    """
    stop = _stop_event()
    with app.app_context():
        is_sqlite = engine().dialect.name == "sqlite"
        parameters = {} if is_sqlite else connection_parameters(f"search_path={QUEUE_SCHEMA}")

    def connector() -> procrastinate.PsycopgConnector:
        return procrastinate.PsycopgConnector(min_size=1, max_size=JOBS, kwargs=parameters, timeout=5)

    async with Engine(app, concurrency) as sending:
        gc.freeze()  # exclude long-lived objects from garbage collection
        gc.set_threshold(GC_THRESHOLD)
        if is_sqlite:
            work = poll(sending, stop, drain=drain)
        elif drain:
            work = _drain(connector, sending, stop)
        else:
            work = _serve(connector, sending, stop)
        await _run_until_stopped(work, stop, sending)


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _run_until_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event, sending: Engine) -> None:
    """Run the work to its end; once stopped it has STOP_TIMEOUT, whatever it waits for."""
    task, stop_task = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait([task, stop_task], return_when=asyncio.FIRST_COMPLETED)
    stop_task.cancel()
    if stop.is_set():
        sending.stop()
        await asyncio.wait([task], timeout=STOP_TIMEOUT)
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task


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


async def _drain(connector: Connector, sending: Engine, stop: asyncio.Event) -> None:
    # Batches may become due meanwhile: repeat until none is due, or they stop changing.
    before: batches.Backlog | None = None
    while not stop.is_set():
        await _run(connector, sending, stop, drain=True)  # first: it raises what is wrong with the database
        await sending.wait_until_idle()
        await sending.run(claims.requeue_lost)
        after = await sending.run(batches.backlog)
        if after.batches == 0 or after == before:
            break
        before = after
    if not stop.is_set() and sending.app.config["PUSH_WEBHOOK_URL"]:
        await _run(connector, sending, stop, drain=True)  # events of what was recorded last


async def _serve(connector: Connector, sending: Engine, stop: asyncio.Event) -> None:
    reason = ""
    while not stop.is_set():
        previous, reason = reason, await _run_until_disconnected(connector, sending, stop)
        if not stop.is_set():
            await _log_and_wait(reason, previous, stop)


async def _run_until_disconnected(connector: Connector, sending: Engine, stop: asyncio.Event) -> str:
    """Return why the worker stopped."""
    try:
        await _run(connector, sending, stop)
    except (ConnectorException, OperationalError, TimeoutError) as error:
        return describe(error)
    return "database unavailable: connection lost"


def describe(error: ConnectorException | OperationalError | TimeoutError) -> str:
    """Return what a database error means, in one line."""
    cause = (error.__cause__ or error) if isinstance(error, ConnectorException) else error
    if isinstance(cause, UndefinedFunction | UndefinedTable | InvalidSchemaName):
        return f"{MISSING_SCHEMA}: run `flask {current_app.extensions['push_cli_group']} db upgrade`"
    if isinstance(cause, OperationalError | TimeoutError):
        return f"database unavailable: {type(cause).__name__}"
    return f"the queue failed: {type(cause).__name__}"


async def _log_and_wait(reason: str, previous: str, stop: asyncio.Event) -> None:
    if not reason.startswith(MISSING_SCHEMA):
        logger.warning("%s; reconnecting", reason)
    elif reason != previous:
        logger.error("%s; waiting for it", reason)
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), DATABASE_RETRY)


async def _run(connector: Connector, sending: Engine, stop: asyncio.Event, *, drain: bool = False) -> None:
    # Returns on stop and on connection loss; when draining, when no job is due.
    options: dict[str, Any] = {
        "queues": [QUEUE],
        "concurrency": JOBS,
        "wait": not drain,
        "delete_jobs": "always",
        "fetch_job_polling_interval": POLL_INTERVAL,
        "update_heartbeat_interval": HEARTBEAT_INTERVAL,
        "stalled_worker_timeout": STALLED_AFTER,
        "additional_context": {"engine": sending},
        "install_signal_handlers": False,
    }
    async with _open_queue(connector) as queue:
        stop_task = asyncio.create_task(stop.wait())
        requeue_task = asyncio.create_task(_requeue_lost_forever(sending))
        workers = [asyncio.create_task(queue.run_worker_async(**options))]
        if sending.app.config["PUSH_WEBHOOK_URL"]:
            workers.append(asyncio.create_task(_post_events(queue, sending.app, options)))
        ends = [asyncio.gather(*workers)] if drain else workers
        try:
            await asyncio.wait([*ends, stop_task], return_when=asyncio.FIRST_COMPLETED)
            for worker in workers:
                worker.cancel()  # graceful: jobs end when their batches are claimed
            await asyncio.wait(workers, timeout=STOP_TIMEOUT)
            for end in ends:
                with suppress(asyncio.CancelledError):
                    await end
        finally:
            stop_task.cancel()
            requeue_task.cancel()


async def _post_events(queue: procrastinate.App, app: Flask, options: dict[str, Any]) -> None:
    async with WebhookClient(app) as client:
        await webhook_worker.run(queue, client, options)


async def _requeue_lost_forever(sending: Engine) -> None:
    # Wait first: after an outage the processes that send batches have to renew their claims.
    await asyncio.sleep(claims.LEASE.total_seconds())
    after_id = 0
    while True:
        lost, after_id = await sending.run(claims.requeue_lost, after_id)
        for batch_id in lost:
            logger.warning("batch %d had no job: queued again", batch_id)
        await asyncio.sleep(REQUEUE_INTERVAL)
