"""Synchronous delivery, for SQLite: in the process that calls `send`, before it returns."""

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from flask import Flask
from flask.globals import app_ctx

from . import claims
from .delivery import Engine
from .polling import POLL_INTERVAL, send_due

CONCURRENCY = 64  # messages in flight
RETRY_WINDOW = timedelta(seconds=30)


def deliver(message_id: int, on_progress: Callable[[int], None]) -> None:
    """Send a message, with retries for RETRY_WINDOW, and what other processes have left.

    `on_progress` is called with numbers of recipients.
    """
    app = app_ctx.app

    def run() -> None:
        asyncio.run(_deliver(app, message_id, on_progress))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        run()
    else:
        with ThreadPoolExecutor(1) as thread:  # the caller's event loop cannot run another
            thread.submit(run).result()


async def _deliver(app: Flask, message_id: int, on_progress: Callable[[int], None]) -> None:
    def report(counts: Counter[str]) -> None:
        on_progress(counts.total() - counts["later"])

    started_at = datetime.now(UTC)
    async with Engine(app, CONCURRENCY, report) as sending:
        while True:
            found = await send_due(sending)
            if found or not sending.is_idle:
                await asyncio.sleep(0 if found else POLL_INTERVAL / 10)
                continue
            next_at = await sending.run(claims.next_time, message_id, started_at)
            if next_at is None or next_at > started_at + RETRY_WINDOW:
                return
            await asyncio.sleep(max(0.0, (next_at - datetime.now(UTC)).total_seconds()))
