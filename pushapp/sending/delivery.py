"""Deliver batches: claim, send to the push services, record what is known so far, again and again."""

import asyncio
import logging
import math
import secrets
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Self, TypeVar

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from .. import keys
from ..database import deadline_after, is_transient, summarize
from ..models import MAX_ID
from ..webpush.client import Client
from . import claims, events, receipts, recording
from .claims import Batch
from .concurrency import CHECK_INTERVAL, Scheduler
from .loopback_client import LoopbackClient
from .sender import BatchSender
from .suppression import fake_browsers, is_suppressed

DATABASE_RETRY = 2  # seconds
RECORDING_TIMEOUT = 10  # seconds
RECORD_INTERVAL = 1  # seconds
RENEW_INTERVAL = 1  # seconds; also how soon a cancellation is noticed
STOP_TIMEOUT = 13  # seconds, for messages in flight and their recording
DATABASE_THREADS = 4  # fewer than the engine has connections

T = TypeVar("T")

logger = logging.getLogger(__name__)


def create_client(app: Flask, max_connections: int) -> Client:
    """Return a client with an application's VAPID keys, trusted push services and proxy."""
    arguments = keys.signers().authorization, app.config["PUSH_TRUSTED_PUSH_SERVICES"]
    options = {
        "proxy": app.config["PUSH_PROXY"],
        "max_connections": max_connections,
        "observe": app.extensions.get("push_observer"),
    }
    browsers, suppressed = fake_browsers(app), is_suppressed(app)
    if browsers or suppressed:
        return LoopbackClient(*arguments, **options, browsers=browsers, is_suppressed=suppressed)
    return Client(*arguments, **options)


class Engine:
    """Sends batches, with `concurrency` messages in flight at most.

    `on_recorded` is called with the counts of each report.
    """

    def __init__(
        self,
        app: Flask,
        concurrency: int,
        on_recorded: Callable[[Counter[str]], object] = lambda counts: None,
    ):
        self._app = app
        self._on_recorded = on_recorded
        self._owner = secrets.randbelow(MAX_ID)
        self._concurrency = concurrency
        self._senders: dict[int, BatchSender] = {}  # by batch
        self._claimed: set[int] = set()  # batches, also those that are being claimed
        self._deliveries: set[asyncio.Task[None]] = set()
        self._deadline: float | None = None  # for everything, once it is stopped; on the monotonic clock

    async def __aenter__(self) -> Self:
        with self._app.app_context():
            self._client = create_client(self._app, self._concurrency)
            self._tokens = receipts.tokens() if self._app.config["PUSH_RECEIPTS"] else None
        self._threads = ThreadPoolExecutor(DATABASE_THREADS, "database")
        await self._client.__aenter__()
        limit = self._client.max_in_flight
        if limit < self._concurrency:
            logger.warning("%d messages in flight at most: `ulimit -n` allows no more connections", limit)
        self._scheduler = Scheduler(limit, self._record_soon)
        self._background = [
            asyncio.create_task(self._check_push_services()),
            asyncio.create_task(self._renew_claims()),
        ]
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Wait for messages in flight, record them, and hand back the rest."""
        self.stop()
        await self.wait_until_idle(self._remaining_time())
        for task in [*self._background, *self._deliveries]:
            task.cancel()
        await asyncio.gather(*self._background, *self._deliveries, return_exceptions=True)
        await self._client.__aexit__(*exception)
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def app(self) -> Flask:
        """The application whose messages are sent."""
        return self._app

    @property
    def is_stopped(self) -> bool:
        """Whether no further messages are begun."""
        return self._deadline is not None

    @property
    def is_idle(self) -> bool:
        """Whether all batches are recorded."""
        return not self._deliveries

    async def wait_for_capacity(self, seconds: float) -> bool:
        """Wait until more batches are to be loaded, `seconds` at most; return whether they are."""
        try:
            async with asyncio.timeout(seconds):
                await self._scheduler.wait_for_capacity()
        except TimeoutError:
            return False
        return not self.is_stopped

    async def deliver(self, batch_id: int) -> None:
        """Claim a batch and begin to send it; nothing if it is not to be sent, or not by this process."""
        if batch_id in self._claimed:
            return
        self._claimed.add(batch_id)
        try:
            batch = await self.run(claims.claim, batch_id, self._owner)
            if batch is None:
                return
            sender = self._senders[batch_id] = BatchSender(batch, self._client, self._scheduler, self._tokens)
        finally:
            if batch_id not in self._senders:
                self._claimed.discard(batch_id)
        if self.is_stopped:
            sender.stop()
        delivery = asyncio.create_task(self._deliver(sender))
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)

    async def wait_until_idle(self, seconds: float | None = None) -> None:
        """Wait until all batches are recorded, `seconds` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._deliveries:
                    await asyncio.wait(self._deliveries)

    def stop(self) -> None:
        """Begin no further messages, and hand back those that have not begun."""
        if self._deadline is None:
            self._deadline = time.monotonic() + STOP_TIMEOUT
            for sender in self._senders.values():
                sender.stop()

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function of the database in a thread; wait for the end of an outage."""

        def call() -> T:
            with self._app.app_context():
                return function(*arguments)

        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
            except SQLAlchemyError as error:
                if not is_transient(error):
                    raise
                logger.warning("database unavailable: %s", summarize(error))
                await asyncio.sleep(DATABASE_RETRY)

    async def _deliver(self, sender: BatchSender) -> None:
        totals: Counter[str] = Counter()
        started_at = time.monotonic()
        try:
            sender.start()
            while await sender.wait(RECORD_INTERVAL):
                report = sender.report()
                counts = await self._record(sender, report)
                self._scheduler.recorded(report.in_flight)
                if counts is None:
                    logger.warning("batch %d: another process has claimed it", sender.batch.id)
                    sender.abandon()
                    return
                totals += counts
                self._on_recorded(counts)
        finally:
            del self._senders[sender.batch.id]
            self._claimed.discard(sender.batch.id)
        logger.info(
            "message %d, batch %d: %s in %.1f s",
            sender.batch.message_id,
            sender.batch.id,
            ", ".join(f"{number} {result}" for result, number in sorted(totals.items())),
            time.monotonic() - started_at,
        )

    async def _record(self, sender: BatchSender, report: recording.Report) -> Counter[str] | None:
        if report.is_empty:
            return Counter()
        # Some were sent: whatever happens, they must not be sent again.
        failure = None
        for record in (recording.record, recording.record_as_failed, recording.discard):
            try:
                return await self.run(self._in_transaction, record, sender.batch, report)
            except Exception as error:  # whatever it is
                if failure is None:
                    failure = error
                    name = summarize(error) if isinstance(error, SQLAlchemyError) else repr(error)
                    logger.error("batch %d: its outcomes are not recorded: %s", sender.batch.id, name)
        sender.abandon()
        return Counter()

    def _record_soon(self) -> None:
        for sender in self._senders.values():
            sender.record_soon()

    def _in_transaction(self, record: Callable[..., T], batch: Batch, report: recording.Report) -> T:
        seconds = min(RECORDING_TIMEOUT, self._remaining_time())
        with events.recorded(deadline_after(seconds)) as (connection, happened):
            is_last = not report.remaining
            if is_last:
                events.lock(connection, batch.message_id)
            report.deleted = []  # by an attempt that was rolled back
            counts = record(connection, batch, self._owner, report)
            happened.extend(events.gone(report.deleted))
            if is_last and counts is not None:
                happened.extend(events.done(connection, batch.message_id))
        return counts

    def _remaining_time(self) -> float:
        return max(0.1, self._deadline - time.monotonic()) if self._deadline else math.inf

    async def _check_push_services(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            self._scheduler.check()

    async def _renew_claims(self) -> None:
        while True:
            await asyncio.sleep(RENEW_INTERVAL)
            if not self._senders:
                continue
            started_at = time.monotonic()
            renewed = await self.run(claims.renew, list(self._senders), self._owner)
            for batch_id, is_cancelled in renewed.items():
                if sender := self._senders.get(batch_id):
                    sender.renewed(started_at, is_cancelled=is_cancelled)
