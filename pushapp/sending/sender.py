"""One batch while it is being sent: which messages wait, are in flight, and have to be recorded."""

import asyncio
import random
import time
from dataclasses import replace

from ..webpush.client import Client
from ..webpush.receipts import Tokens, add_receipt
from ..webpush.responses import Counted, Outcome, Result
from .claims import LEASE, Batch
from .concurrency import Push, Scheduler
from .recording import Report

LEASE_MARGIN = 2  # seconds before a claim is void: no message is begun any more
MIN_DELAY, MAX_DELAY = 5, 600  # seconds until what has found no slot is tried again

EXPIRED = Outcome(Result.EXPIRED)
REPLACED = Outcome(Result.REPLACED)
TOO_LATE = Outcome(Result.FAILED)


class BatchSender:
    """Sends a batch through the scheduler, and reports what is to be recorded."""

    def __init__(
        self, batch: Batch, client: Client, scheduler: Scheduler, receipt_tokens: Tokens | None = None
    ):
        self.batch = batch
        self.is_direct = batch.is_direct
        self._client = client
        self._scheduler = scheduler
        self._receipt_tokens = receipt_tokens
        self._payload = batch.message.payload()
        self._pushes: dict[int, Push] = {}  # by recipient: those that wait or are in flight
        self._report = Report(missing=batch.size - len(batch.recipients))
        self._wake = asyncio.Event()
        self._claimed_until = 0.0  # on the monotonic clock, as is the next
        self._begin_until = time.monotonic() + batch.remaining_time()
        self._is_cancelled = batch.is_cancelled
        self._is_stopped = False
        self._is_finished = False

    def start(self) -> None:
        """Let the messages wait for slots."""
        batch = self.batch
        self.renewed(time.monotonic(), is_cancelled=self._is_cancelled)
        for recipient in batch.recipients:
            if self._is_cancelled:
                # The process that claimed the batch before may have sent it.
                self._report.outcomes.append((recipient, TOO_LATE))
            elif recipient.id in batch.replaced:
                self._report.outcomes.append((recipient, REPLACED))
            else:
                self._pushes[recipient.id] = Push(recipient, self)
        for push in self._pushes.values():
            self._scheduler.add(push)
        self.batch = replace(batch, recipients=(), replaced=())  # a batch may last: free the memory
        self._scheduler.fill()
        self._wake_if_done()

    async def wait(self, seconds: float) -> bool:
        """Wait until there is something to record, `seconds` at most; return whether the batch goes on."""
        if self._is_finished:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            self._hand_back_excess()
        self._wake.clear()
        return True

    def report(self) -> Report:
        """Return what is to be recorded now; the next call returns what follows."""
        report, self._report = self._report, Report()
        report.remaining = list(self._pushes)
        self._is_finished = not self._pushes
        return report

    def renewed(self, at: float, *, is_cancelled: bool) -> None:
        """Take a renewal of the claim, which is valid from `at` on the monotonic clock."""
        self._claimed_until = at + LEASE.total_seconds() - LEASE_MARGIN
        if is_cancelled and not self._is_cancelled:
            self._is_cancelled = True
            for push in self._waiting():
                self._take(push)
                self._report.cancelled.append(push.recipient)
            self._wake_if_done()

    def stop(self) -> None:
        """Begin no further messages."""
        self._is_stopped = True
        for push in self._waiting():
            self._take(push)
            self._report.postponed.append((push.recipient, 0.0))
        self._wake.set()

    def abandon(self) -> None:
        """Begin no further messages, and report nothing: the batch is not this process's any more."""
        self._is_stopped = self._is_finished = True
        for push in self._waiting():
            self._take(push)
        self._pushes.clear()

    def begin(self, push: Push) -> bool:
        """Return whether a message is to be sent now."""
        now = time.monotonic()
        if now >= self._begin_until:
            del self._pushes[push.recipient.id]
            self._report.outcomes.append((push.recipient, TOO_LATE if self.batch.attempts else EXPIRED))
        elif self._is_stopped or now >= self._claimed_until:
            del self._pushes[push.recipient.id]
            self._report.postponed.append((push.recipient, 0.0))
        else:
            return True
        self._wake_if_done()
        return False

    async def send(self, push: Push) -> Outcome:
        """Send a message."""
        message, payload = self.batch.message, self._payload
        if self._receipt_tokens:
            token = self._receipt_tokens.create(self.batch.message_id, push.recipient.id)
            payload = add_receipt(payload, token)
        try:
            return await self._client.push(
                push.recipient,
                payload,
                ttl=self.batch.ttl(),
                urgency=message.urgency,
                topic=message.topic,
            )
        except Exception as error:  # of one message: the others are not to suffer
            return Outcome(Result.FAILED, counts_against=Counted.NOTHING, reason=repr(error))

    def end(self, push: Push, outcome: Outcome) -> None:
        """Take the outcome of a message."""
        if self._pushes.pop(push.recipient.id, None):
            self._report.outcomes.append((push.recipient, outcome))
            self._report.in_flight += 1
            self._wake_if_done()
        else:
            self._scheduler.recorded(1)  # by another process

    def record_soon(self) -> None:
        """Wake up if there is something to record."""
        if self._report.in_flight:
            self._wake.set()

    def reject(self, push: Push, retry_after: float) -> None:
        """Take back a message whose push service's circuit is open."""
        if self._pushes.pop(push.recipient.id, None):
            self._report.postponed.append((push.recipient, self._delay(retry_after)))
            self._wake_if_done()

    def _waiting(self) -> list[Push]:
        return [push for push in self._pushes.values() if push.is_waiting]

    def _take(self, push: Push) -> None:
        del self._pushes[push.recipient.id]
        self._scheduler.withdraw(push)

    def _wake_if_done(self) -> None:
        if not self._pushes:
            self._wake.set()

    def _hand_back_excess(self) -> None:
        # Those that have waited in vain: others get their place.
        for push in reversed(self._waiting()):
            if self._scheduler.excess(push):
                self._take(push)
                self._report.postponed.append((push.recipient, self._delay()))

    def _delay(self, at_least: float = 0.0) -> float:
        # The longer a message has waited for its push service, the more rarely it is tried.
        age = (self.batch.now() - self.batch.starts_at).total_seconds()
        jitter = random.uniform(0.75, 1.25)  # noqa: S311  # not a secret
        delay = max(at_least, min(max(age / 2, MIN_DELAY) * jitter, MAX_DELAY))
        return max(1.0, min(delay, (self._begin_until - time.monotonic()) / 2))
