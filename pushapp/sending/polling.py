"""Delivery without a queue, on SQLite: look for due batches in the table."""

import asyncio

from . import batches, claims
from .delivery import Engine

POLL_INTERVAL = 0.2  # seconds
LOADED_BATCHES = 4  # at once


async def poll(sending: Engine, stop: asyncio.Event, *, drain: bool = False) -> None:
    """Send what is due until `stop` is set, or until nothing is due (drain)."""
    while not stop.is_set():
        found = await send_due(sending)
        if drain and not found and sending.is_idle:
            return
        if not found:
            await asyncio.wait([asyncio.create_task(stop.wait())], timeout=POLL_INTERVAL)


async def send_due(sending: Engine) -> bool:
    """Begin to send batches that are due, where there is capacity; return whether there were any."""
    if not await sending.wait_for_capacity(POLL_INTERVAL):
        return True
    due = await sending.run(claims.due_batches, LOADED_BATCHES)
    for batch_id, size in due:
        if size:
            await sending.deliver(batch_id)
        else:
            await sending.run(lambda batch_id=batch_id: list(batches.fan_out(batch_id)))
    return bool(due)
