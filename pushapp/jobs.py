"""The queue: how a message gets from `send` to delivery, on PostgreSQL by workers, on SQLite here and now."""

import asyncio
import heapq
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final, TypeVar

import procrastinate
from flask import Flask
from flask.globals import app_ctx
from procrastinate.manager import JobManager
from procrastinate.tasks import configure_task
from procrastinate.types import JSONDict
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from . import outbox, subscriptions, vapid
from .database import deadline, describe, engine, is_passing, transaction
from .delivery import Delivery
from .messages import Message, MessageError
from .models import user_id_of
from .outbox import Due
from .outcomes import Result

QUEUE = "push"
FAN_OUT = "pushapp.fan_out"
DELIVER = "pushapp.deliver"
DATABASE_RETRY = 2  # seconds
RECORDING_TIMEOUT = 10  # seconds
URGENT, TO_EVERYONE = 1, 0  # priorities: a message to one user does not wait behind one to all
TURN = 1  # seconds that a slice may keep others waiting
PATIENCE_HERE = timedelta(seconds=30)  # how long a send on SQLite repeats what is passing
DEFER_AT_ONCE = 500  # jobs a statement

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Everyone(Enum):
    """Whom a message is for when it is for all."""

    EVERYONE = "everyone"


EVERYONE: Final = Everyone.EVERYONE

# The tasks, for workers; and what puts jobs in, always on somebody's open connection.
queue = procrastinate.App(connector=procrastinate.PsycopgConnector())
_entrance = JobManager(procrastinate.SyncPsycopgConnector())
_until_it_works = procrastinate.RetryStrategy(wait=DATABASE_RETRY)


def send(
    message: Message,
    *,
    to: str | int | Everyone,
    idempotency_key: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Send a message to a user, or to EVERYONE; return the message's id.

    On PostgreSQL it is queued, and `flask push worker` delivers it. On SQLite it is delivered before
    this returns, and `on_progress` is told how many more are done, of how many. With an idempotency key
    that was used before nothing is sent, and the id is the first message's.

    Raises MessageError when `to` can be nobody.
    """
    user_id = _user_id(to)
    with transaction() as connection:
        id, due = outbox.put(connection, message, user_id, idempotency_key)
        _defer(connection, FAN_OUT if to is EVERYONE else DELIVER, due)
    if engine().dialect.name == "postgresql":
        return id
    if to is EVERYONE:
        due = [cut for uncut in due for piece in cut_in_pieces(uncut.slice_id) for cut in piece]
    total = outbox.status(id).recipients
    asyncio.run(_deliver_here(due, lambda done: on_progress(done, total)))
    return id


def _user_id(to: object) -> str | None:
    if to is EVERYONE:
        return None
    user_id = user_id_of(to)
    if user_id is None:
        raise MessageError("to", "Must be a user's id, or everyone.")
    return user_id


@queue.task(name=FAN_OUT, queue=QUEUE, retry=_until_it_works, pass_context=True)
async def fan_out(context: procrastinate.JobContext, *, slice_id: int) -> None:
    """Cut a message to everyone into slices, a piece at a time: the first are sent while others are cut."""

    def cut() -> int:
        return sum(len(piece) for piece in cut_in_pieces(slice_id))

    slices = await in_app(context.additional_context["app"], cut)
    logger.info("slice %d: cut into %d", slice_id, slices)


def cut_in_pieces(slice_id: int) -> Iterator[list[Due]]:
    """Cut the uncut slice of a message to everyone, and yield what is due of each piece; the last is empty.

    A piece and its jobs are committed together: where one caller ends, another may go on.
    """
    piece = None
    while piece != []:
        with transaction() as connection:
            piece = outbox.cut(connection, slice_id)
            _defer(connection, DELIVER, piece, priority=TO_EVERYONE)
        yield piece


@queue.task(name=DELIVER, queue=QUEUE, retry=_until_it_works, pass_context=True)
async def deliver(context: procrastinate.JobContext, *, slice_id: int) -> None:
    """Send a slice, and queue what is to be repeated.

    Slices of messages to everyone take turns, and one that has to wait for a push service gives up its
    turn meanwhile. A message to one user needs none.
    """
    app, delivery, turns = (context.additional_context[name] for name in ("app", "delivery", "turns"))
    async with nullcontext() if context.job.priority >= URGENT else turns:
        delivering = asyncio.create_task(_deliver(app, delivery, slice_id))
        await asyncio.wait([delivering], timeout=TURN)
    await delivering


@queue.periodic(cron="17 3 * * *")
@queue.task(name="pushapp.prune", queue=QUEUE, retry=_until_it_works, pass_context=True)
async def prune_nightly(context: procrastinate.JobContext, timestamp: int) -> None:
    """Forget expired subscriptions and old finished messages."""
    await in_app(context.additional_context["app"], subscriptions.prune)
    await in_app(context.additional_context["app"], outbox.prune)


async def _deliver(
    app: Flask, delivery: Delivery, slice_id: int, patience: timedelta | None = None
) -> tuple[Counter[str], list[Due]]:
    began = time.monotonic()
    slice = await in_app(app, outbox.take, slice_id)
    if slice is None:
        return Counter(), []
    message = slice.message
    give_up_at = message.expires_at(slice.created_at)
    if patience is not None:
        give_up_at = min(give_up_at, slice.created_at + patience)
    outcomes = await delivery.deliver(
        slice.recipients,
        message.payload(),
        ttl=message.ttl_for(slice.created_at, slice.attempts),
        urgency=message.urgency,
        topic=message.topic,
    )

    def record() -> tuple[Counter[str], list[Due]]:
        with transaction(deadline(RECORDING_TIMEOUT)) as connection:
            counts, due = outbox.record(connection, slice, outcomes, give_up_at)
            priority = TO_EVERYONE if slice.user_id is None else URGENT
            _defer(connection, DELIVER, due, priority)
            return counts, due

    counts, due = await _until_recorded(app, record)
    logger.info(
        "message %d, slice %d: %s in %.1f s",
        slice.message_id,
        slice_id,
        ", ".join(f"{number} {result}" for result, number in sorted(counts.items())) or "nothing new",
        time.monotonic() - began,
    )
    return counts, due


async def _until_recorded(app: Flask, record: Callable[[], T]) -> T:
    # What was sent is sent: the database is waited for, or everybody in the slice would get it twice.
    while True:
        try:
            return await in_app(app, record)
        except SQLAlchemyError as error:
            if not is_passing(error):
                raise
            logger.warning("the database does not answer: %s", describe(error))
            await asyncio.sleep(DATABASE_RETRY)


def delivery_for(app: Flask) -> Delivery:
    """Return what delivers for an application: its key, its trusted push services."""
    return Delivery(
        vapid.signer().authorization,
        app.config["PUSH_TRUSTED_PUSH_SERVICES"],
        observe=app.extensions.get("push_observer"),
    )


async def _deliver_here(due: Sequence[Due], on_progress: Callable[[int], None]) -> None:
    app = app_ctx.app
    waiting = [(one.at, one.slice_id) for one in due]
    heapq.heapify(waiting)
    async with delivery_for(app) as delivery:
        while waiting:
            at, slice_id = heapq.heappop(waiting)
            await asyncio.sleep((at - datetime.now(UTC)).total_seconds())
            counts, again = await _deliver(app, delivery, slice_id, PATIENCE_HERE)
            on_progress(counts.total() - counts[Result.AGAIN.value])
            for one in again:
                heapq.heappush(waiting, (one.at, one.slice_id))


def _defer(connection: Connection, task_name: str, due: Sequence[Due], priority: int = URGENT) -> None:
    # On the same connection, so that what is to be done and its job are committed together.
    if connection.dialect.name != "postgresql":
        return
    driver_connection = connection.connection.driver_connection
    moments = sorted({one.at for one in due})
    for at in moments:
        ids = [one.slice_id for one in due if one.at == at]
        for start in range(0, len(ids), DEFER_AT_ONCE):
            entry = configure_task(
                name=task_name,
                queue=QUEUE,
                job_manager=_entrance,
                connection=driver_connection,
                schedule_at=at,
                priority=priority,
            )
            arguments: list[JSONDict] = [{"slice_id": id} for id in ids[start : start + DEFER_AT_ONCE]]
            entry.batch_defer(*arguments)


async def in_app(app: Flask, function: Callable[..., T], *arguments: Any) -> T:
    """Call what waits for the database in a thread, inside the application's context."""

    def call() -> T:
        with app.app_context():
            return function(*arguments)

    return await asyncio.to_thread(call)
