"""Record outcomes: counts, failures of subscriptions, and what is sent later. Once, in one transaction."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from ..dialects import INSERTS
from ..models import PushBatch, PushMessage, PushOutcome
from ..webpush.endpoints import origin_of
from ..webpush.responses import Counted, Outcome, Result
from . import failures
from .claims import Batch
from .clock import database_time
from .queue import BROADCAST_PRIORITY, DELIVER, DIRECT_PRIORITY, ScheduledBatch, enqueue

INITIAL_BACKOFF = 2  # seconds; doubled with each attempt
MAX_BACKOFF = 60 * 60  # seconds
CANCELLED = "cancelled"

_message = PushMessage.__table__.c
_batch = PushBatch.__table__.c
_outcome = PushOutcome.__table__.c


@dataclass(slots=True)
class Report:
    """What has become of a batch's recipients (rows of `load_recipients`) since the last report."""

    outcomes: list[tuple[Any, Outcome]] = field(default_factory=list)
    postponed: list[tuple[Any, float]] = field(default_factory=list)  # not begun; seconds to wait
    cancelled: list[Any] = field(default_factory=list)  # not begun, and not to be
    remaining: list[int] = field(default_factory=list)  # ids of recipients to report later
    in_flight: int = 0  # how many of the outcomes occupy a slot
    deleted: list[Any] = field(default_factory=list)  # subscriptions, while this was recorded
    missing: int = 0  # recipients that did not exist any more when the batch was claimed; negative: new ones

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be recorded."""
        return self.remaining != [] and not (self.outcomes or self.postponed or self.cancelled)

    @property
    def is_continued(self) -> bool:
        """Whether recipients are to be sent to later."""
        return bool(self.postponed) or any(outcome.result is Result.RETRY for _, outcome in self.outcomes)


def record(connection: Connection, batch: Batch, owner: int, report: Report) -> Counter[str] | None:
    """Record a report, and return its counts; None if another process has claimed the batch.

    Recipients to retry, and those that were postponed, become batches of their own.
    """
    # A message is locked before its batches, as by `cancel` and `erase`.
    is_cancelled = report.is_continued and _is_cancelled(connection, batch.message_id)
    if not _update_batch(connection, batch, owner, report.remaining):
        return None
    results = [(recipient, outcome.result.value) for recipient, outcome in report.outcomes]
    later: list[tuple[datetime, int, int]] = []  # due at, attempts, recipient
    if report.is_continued:
        now = database_time(connection)
        results = _plan_retries(batch, report, now, later, is_cancelled=is_cancelled)
    results += [(recipient, _never_sent(batch)) for recipient in report.cancelled]
    _update_subscriptions(connection, report, results, batch.now())
    _add_later(connection, batch, later)
    counts = Counter((_host(recipient.endpoint), result) for recipient, result in results)
    if report.missing > 0:
        counts["", Result.GONE.value] += report.missing
    elif report.missing < 0:
        of_message = update(PushMessage.__table__).where(_message.id == batch.message_id)
        connection.execute(of_message.values(recipients=_message.recipients - report.missing))
    add_counts(connection, batch.message_id, counts)
    totals = Counter(result for _, result in counts.elements())
    return totals + Counter({"later": len(later)})


def record_as_failed(connection: Connection, batch: Batch, owner: int, report: Report) -> Counter[str] | None:
    """Record a report without what may be refused: what was not sent has failed, and is not retried."""
    if not _update_batch(connection, batch, owner, report.remaining):
        return None
    sent = sum(outcome.result is Result.SENT for _, outcome in report.outcomes)
    number = len(report.outcomes) + len(report.postponed) + len(report.cancelled) + report.missing
    counts = Counter({("", Result.SENT.value): sent, ("", Result.FAILED.value): number - sent})
    add_counts(connection, batch.message_id, +counts)
    return Counter({Result.SENT.value: sent, Result.FAILED.value: number - sent})


def discard(connection: Connection, batch: Batch, owner: int, _report: Report) -> Counter[str]:
    """Delete a batch whose outcomes cannot be recorded: it must not be sent again."""
    _update_batch(connection, batch, owner, [])
    return Counter()


def add_counts(connection: Connection, message_id: int, counts: Counter[tuple[str, str]]) -> None:
    """Add to a message's counts of outcomes, by push service and outcome."""
    insert = INSERTS[connection.dialect.name](PushOutcome.__table__)
    upsert = insert.on_conflict_do_update(
        index_elements=["message_id", "push_service", "outcome"],
        set_={"count": _outcome.count + insert.excluded.count},
    )
    rows = [
        {"message_id": message_id, "push_service": host, "outcome": result, "count": number}
        for (host, result), number in sorted(counts.items())  # consistent lock order: no deadlock
    ]
    if rows:
        connection.execute(upsert, rows)


def _update_batch(connection: Connection, batch: Batch, owner: int, remaining: Sequence[int]) -> bool:
    # Locks the row; another process that has claimed it meanwhile is the one to record it.
    own = (_batch.id == batch.id) & (_batch.claimed_by == owner)
    if not remaining:
        return connection.execute(delete(PushBatch.__table__).where(own)).rowcount > 0
    rest = {
        "first_id": min(remaining),
        "last_id": max(remaining),
        "size": len(remaining),
        "subscription_ids": list(remaining),
    }
    return connection.execute(update(PushBatch.__table__).where(own).values(rest)).rowcount > 0


def _is_cancelled(connection: Connection, message_id: int) -> bool:
    # Locked: `cancel` must find the batches that are about to be added, or be seen here.
    cancelled_at = select(_message.cancelled_at).where(_message.id == message_id)
    return connection.execute(cancelled_at.with_for_update(read=True)).scalar() is not None


def _never_sent(batch: Batch) -> str:
    # What is counted as cancelled or expired was never sent: not by an earlier attempt either.
    return Result.FAILED.value if batch.attempts else CANCELLED


def _plan_retries(
    batch: Batch,
    report: Report,
    now: datetime,
    later: list[tuple[datetime, int, int]],
    *,
    is_cancelled: bool,
) -> list[tuple[Row[Any], str]]:
    # Fills `later`; returns the results of those that are not sent later.
    results = []
    jitter = random.uniform(0.5, 1.5)  # noqa: S311  # not a secret
    backoff = min(INITIAL_BACKOFF * 2**batch.attempts, MAX_BACKOFF) * jitter
    for recipient, outcome in report.outcomes:
        due_at = now + timedelta(seconds=max(backoff, outcome.retry_after))
        if outcome.result is not Result.RETRY:
            results.append((recipient, outcome.result.value))
        elif is_cancelled or due_at >= batch.retry_until:
            results.append((recipient, Result.FAILED.value))
        else:
            later.append((due_at, batch.attempts + 1, recipient.id))
    for recipient, seconds in report.postponed:
        if is_cancelled:
            results.append((recipient, _never_sent(batch)))
        else:
            later.append((now + timedelta(seconds=seconds), batch.attempts, recipient.id))
    return results


def _add_later(connection: Connection, batch: Batch, later: list[tuple[datetime, int, int]]) -> None:
    # Grouped by the second that they are due in: few batches, and each recipient at its own time.
    groups: defaultdict[tuple[int, int], list[tuple[datetime, int]]] = defaultdict(list)
    for due_at, attempts, recipient_id in later:
        groups[int(due_at.timestamp()), attempts].append((due_at, recipient_id))
    scheduled = []
    for (_, attempts), group in sorted(groups.items()):
        ids = sorted(recipient_id for _, recipient_id in group)
        due_at = max(due_at for due_at, _ in group)
        insert = PushBatch.__table__.insert().values(
            message_id=batch.message_id,
            first_id=ids[0],
            last_id=ids[-1],
            subscription_ids=ids,
            size=len(ids),
            attempts=attempts,
            due_at=due_at,
        )
        row_id = connection.execute(insert.returning(_batch.id)).scalar_one()
        scheduled.append(ScheduledBatch(row_id, due_at))
    enqueue(connection, DELIVER, scheduled, DIRECT_PRIORITY if batch.is_direct else BROADCAST_PRIORITY)


def _update_subscriptions(
    connection: Connection, report: Report, results: Sequence[tuple[Row[Any], str]], now: datetime
) -> None:
    sent = [recipient.id for recipient, result in results if result == Result.SENT]
    failed = [
        recipient.id
        for recipient, outcome in report.outcomes
        if outcome.counts_against is Counted.SUBSCRIPTION
    ]
    failures.record_sent(connection, sent, now)
    failures.clear_failures(connection, sent)
    gone = [recipient for recipient, result in results if result == Result.GONE]
    report.deleted = [
        *failures.record_failures(connection, failed, now),
        *failures.delete_gone(connection, gone),
    ]


def _host(endpoint: str) -> str:
    try:
        return origin_of(endpoint).host
    except ValueError:
        return ""  # an imported endpoint may be anything
