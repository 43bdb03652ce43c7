"""Every query on messages: put in, cut into slices, take a slice, record what became of it, look up."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, exists, func, select, update

from . import recipients
from .database import autocommit, transaction
from .extensions import INSERTS
from .messages import Message
from .models import PushMessage, PushOutcome, PushSlice
from .outcomes import Outcome, Result
from .push_services import origin_of

FIRST_DELAY = 2  # seconds before what failed in passing is tried again; doubled each time
MAX_DELAY = 60 * 60  # seconds
KEPT_FOR = timedelta(days=30)  # finished messages
PRUNE_SLICE = 1_000  # messages a transaction
MAX_COUNTED = 10 * recipients.SLICE_SIZE  # subscriptions, when a message to everyone is put in
UNCUT = 0  # the size of a slice that stands for those that are not cut yet
CUT_AT_ONCE = 10 * recipients.SLICE_SIZE  # subscriptions a transaction

_message = PushMessage.__table__.c
_slice = PushSlice.__table__.c
_outcome = PushOutcome.__table__.c


@dataclass(frozen=True, slots=True)
class Due:
    """A slice that is to be worked on at a moment."""

    slice_id: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Slice:
    """Subscriptions that a message is to be sent to now."""

    id: int
    message_id: int
    message: Message
    created_at: datetime
    user_id: str | None
    size: int
    attempts: int
    recipients: Sequence[Row[Any]]


@dataclass(frozen=True, slots=True)
class Status:
    """How far a message has got."""

    id: int
    state: str  # queued, sending, done
    recipients: int
    sent: int
    gone: int
    failed: int
    is_cut: bool  # so that `recipients` is final


class Backlog(NamedTuple):
    """What is due and has not been sent."""

    slices: int
    newest_id: int | None
    oldest_due_at: datetime | None
    subscriptions: int | None


class UnknownMessageError(LookupError):
    """There is no message with this id."""


def put(
    connection: Connection, message: Message, user_id: str | None, idempotency_key: str | None = None
) -> tuple[int, list[Due]]:
    """Put a message in, for a user or for everyone; return its id and what is due.

    With an idempotency key that was used before, return the first message's id, and nothing due. A
    message to everyone is one uncut slice, so that its size makes no difference here.
    """
    now = datetime.now(UTC)
    found = recipients.ranges(connection, user_id, limit=MAX_COUNTED if user_id is None else None)
    row = {
        "user_id": user_id,
        "message": message.to_json(),
        "recipients": sum(one.size for one in found),
        "idempotency_key": idempotency_key,
        "created_at": now,
    }
    insert = INSERTS[connection.dialect.name](PushMessage.__table__).values(row)
    insert = insert.on_conflict_do_nothing(index_elements=["idempotency_key"]).returning(_message.id)
    id = connection.execute(insert).scalar()
    if id is None:
        return connection.execute(
            select(_message.id).where(_message.idempotency_key == idempotency_key)
        ).scalar_one(), []
    if user_id is None:
        last_id = recipients.newest_id(connection)
        return id, [_add_slice(connection, id, now, first_id=0, last_id=last_id, size=UNCUT)]
    return id, [_add_slice(connection, id, now, **one._asdict()) for one in found]


def cut(connection: Connection, slice_id: int) -> list[Due]:
    """Cut the next slices off the uncut slice of a message to everyone, and return them.

    None is left to cut when none is returned. What is cut is what has not been cut before, whoever asks
    at the same time.
    """
    uncut = connection.execute(
        select(PushSlice.__table__).where(_slice.id == slice_id).with_for_update()
    ).one_or_none()
    if uncut is None:
        return []
    found = recipients.ranges(
        connection, None, first_id=uncut.first_id, last_id=uncut.last_id, limit=CUT_AT_ONCE
    )
    total = sum(one.size for one in found)
    so_far = _message.recipients if uncut.first_id else 0
    connection.execute(
        update(PushMessage.__table__).where(_message.id == uncut.message_id).values(recipients=so_far + total)
    )
    if not found:
        connection.execute(delete(PushSlice.__table__).where(_slice.id == slice_id))
        return []
    rest = found[-1].last_id + 1
    connection.execute(update(PushSlice.__table__).where(_slice.id == slice_id).values(first_id=rest))
    now = datetime.now(UTC)
    common = {"message_id": uncut.message_id, "attempts": 0, "due_at": now, "subscription_ids": None}
    rows = connection.execute(
        PushSlice.__table__.insert().returning(_slice.id), [one._asdict() | common for one in found]
    )
    return [Due(id, now) for id in rows.scalars()]


def take(slice_id: int) -> Slice | None:
    """Return a slice with those of its subscriptions that are still there; None when it is done."""
    with autocommit() as connection:
        row = connection.execute(
            select(PushSlice.__table__, _message.message, _message.user_id, _message.created_at)
            .join(PushMessage.__table__)
            .where(_slice.id == slice_id)
        ).one_or_none()
        if row is None:
            return None
        found = recipients.load(connection, row.user_id, row.first_id, row.last_id, row.subscription_ids)
    return Slice(
        slice_id, row.message_id, Message.from_json(row.message), row.created_at, row.user_id, row.size,
        row.attempts, found,
    )  # fmt: skip


def record(
    connection: Connection, slice: Slice, outcomes: Sequence[Outcome], give_up_at: datetime
) -> tuple[Counter[str], list[Due]]:
    """Record what became of a slice, once; return the counts, and what is to be tried again when.

    What would be tried again after `give_up_at` has failed.
    """
    if not connection.execute(delete(PushSlice.__table__).where(_slice.id == slice.id)).rowcount:
        return Counter(), []  # another worker thought this one dead, and has recorded it
    again = _to_repeat(slice, outcomes, give_up_at)
    repeated = {id for ids, _ in again.values() for id in ids}
    by_result: dict[str, list[Any]] = defaultdict(list)
    tally: Counter[tuple[str, str]] = Counter()
    for recipient, outcome in zip(slice.recipients, outcomes, strict=True):
        given_up = outcome.result is Result.AGAIN and recipient.id not in repeated
        result = (Result.FAILED if given_up else outcome.result).value
        by_result[result].append(recipient)
        tally[_push_service(recipient.endpoint), result] += 1
    if vanished := slice.size - len(slice.recipients):
        tally["", Result.GONE.value] += vanished

    blamed = [row.id for row, one in zip(slice.recipients, outcomes, strict=True) if one.blames_subscription]
    recipients.note_success(connection, [row.id for row in by_result[Result.SENT]])
    recipients.note_failures(connection, blamed)
    recipients.forget_gone(connection, by_result[Result.GONE])
    _count(connection, slice.message_id, tally)
    due = [
        _add_slice(
            connection, slice.message_id, at, first_id=ids[0], last_id=ids[-1], size=len(ids),
            subscription_ids=ids, attempts=slice.attempts + 1,
        )
        for ids, at in again.values()
    ]  # fmt: skip
    totals: Counter[str] = Counter()
    for (_, name), number in tally.items():
        totals[name] += number
    return totals, due


def status(message_id: int) -> Status:
    """Return how far a message has got.

    Raises UnknownMessageError.
    """
    with autocommit() as connection:
        unfinished = exists().where(_slice.message_id == message_id)
        uncut = exists().where(_slice.message_id == message_id, _slice.size == UNCUT)
        row = connection.execute(
            select(_message.recipients, unfinished, uncut).where(_message.id == message_id)
        ).one_or_none()
        if row is None:
            raise UnknownMessageError
        sums = select(_outcome.outcome, func.sum(_outcome.count)).where(_outcome.message_id == message_id)
        counts = {name: int(number) for name, number in connection.execute(sums.group_by(_outcome.outcome))}
    total, is_unfinished, is_uncut = row
    state = "done" if not is_unfinished else "sending" if counts else "queued"
    sent, gone, failed = (counts.get(name, 0) for name in ("sent", "gone", "failed"))
    return Status(message_id, state, total, sent, gone, failed, not is_uncut)


def backlog() -> Backlog:
    """Return what is due now."""
    with autocommit() as connection:
        due = select(func.count(), func.max(_slice.id), func.min(_slice.due_at), func.sum(_slice.size))
        row = connection.execute(due.where(_slice.due_at <= datetime.now(UTC))).one()
    return Backlog(*row)


def prune() -> int:
    """Forget the messages that were finished long ago, and return how many."""
    pruned, gone = 0, PRUNE_SLICE
    while gone == PRUNE_SLICE:
        with transaction() as connection:
            unfinished = exists().where(_slice.message_id == _message.id)
            old = (
                select(_message.id)
                .where(_message.created_at < datetime.now(UTC) - KEPT_FOR, ~unfinished)
                .order_by(_message.created_at)
                .limit(PRUNE_SLICE)
            )
            ids = connection.execute(old).scalars().all()
            connection.execute(delete(PushOutcome.__table__).where(_outcome.message_id.in_(ids)))
            connection.execute(delete(PushMessage.__table__).where(_message.id.in_(ids)))
            gone = len(ids)
        pruned += gone
    after_id: int | None = 0
    while after_id is not None:
        with transaction() as connection:
            after_id = recipients.forget_failures(connection, after_id, PRUNE_SLICE)
    return pruned


def _add_slice(connection: Connection, message_id: int, at: datetime, **members: Any) -> Due:
    insert = PushSlice.__table__.insert().values(message_id=message_id, due_at=at, **members)
    return Due(connection.execute(insert.returning(_slice.id)).scalar_one(), at)


def _to_repeat(
    slice: Slice, outcomes: Sequence[Outcome], give_up_at: datetime
) -> dict[str, tuple[list[int], datetime]]:
    # By push service, so that one in trouble does not hold up what is to be repeated at another.
    ids: dict[str, list[int]] = defaultdict(list)
    delays: dict[str, float] = defaultdict(float)
    backoff = min(FIRST_DELAY * 2**slice.attempts, MAX_DELAY) * random.uniform(0.5, 1.5)  # noqa: S311
    for recipient, outcome in zip(slice.recipients, outcomes, strict=True):
        if outcome.result is Result.AGAIN:
            push_service = _push_service(recipient.endpoint)
            ids[push_service].append(recipient.id)
            delays[push_service] = max(delays[push_service], backoff, outcome.retry_after or 0)
    now = datetime.now(UTC)
    moments = {push_service: now + timedelta(seconds=delay) for push_service, delay in delays.items()}
    return {name: (ids[name], at) for name, at in moments.items() if at < give_up_at}


def _count(connection: Connection, message_id: int, tally: Counter[tuple[str, str]]) -> None:
    insert = INSERTS[connection.dialect.name](PushOutcome.__table__)
    insert = insert.on_conflict_do_update(
        index_elements=["message_id", "push_service", "outcome"],
        set_={"count": _outcome.count + insert.excluded.count},
    )
    rows = [
        {"message_id": message_id, "push_service": push_service, "outcome": outcome, "count": number}
        for (push_service, outcome), number in sorted(tally.items())  # in one order: no deadlock
        if outcome != Result.AGAIN
    ]
    if rows:
        connection.execute(insert, rows)


def _push_service(endpoint: str) -> str:
    return origin_of(endpoint).host
