"""Concurrency: messages in flight are bounded, and shared fairly among push services.

A message is in flight until its outcome is recorded: what a killed worker had in flight may be sent twice.

A push service that responds quickly has a share of its own. All that have never responded, or take more than
a second, have one share together: however many they are, they cannot delay the others. One that needs a
connection for each message (HTTP/1.1) gets few at once: it may be small.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from ..circuit_breaker import CallRejectedError
from ..webpush.client import Recipient
from ..webpush.responses import Outcome
from ..webpush.transport import MAX_SHARE
from .push_services import PushService, PushServices

CHECK_INTERVAL = 0.5  # seconds
MIN_WAITING_LIMIT = 2_000  # messages that may wait for a slot
LOOK_AHEAD = 5  # seconds: what begins sooner may wait
COMPARED_SHARES = 16  # of which the one with the fewest messages in flight is next


class Sender(Protocol):
    """A batch, whose messages the scheduler begins."""

    @property
    def is_direct(self) -> bool:
        """Whether its messages go before those of broadcasts."""

    def begin(self, push: "Push") -> bool:
        """Return whether a message is to be sent now; if not, the sender has dealt with it."""

    async def send(self, push: "Push") -> Outcome:
        """Send a message."""

    def end(self, push: "Push", outcome: Outcome) -> None:
        """Take the outcome of a message."""

    def reject(self, push: "Push", retry_after: float) -> None:
        """Take back a message that was not sent: the circuit of its push service is open."""


@dataclass(slots=True, eq=False)
class Push:
    """A message to one recipient."""

    recipient: Recipient
    sender: Sender
    push_service: PushService = field(init=False)
    is_waiting: bool = False


# Push services with waiting messages: of broadcasts, and to one user.
_Turns = tuple[OrderedDict[PushService, None], OrderedDict[PushService, None]]


class Scheduler:
    """Begins messages, `limit` at once.

    `on_unrecorded` is called when many outcomes have to be recorded, or no more messages can begin.
    """

    def __init__(self, limit: int, on_unrecorded: Callable[[], object] = lambda: None):
        self._on_unrecorded = on_unrecorded
        self._unrecorded = 0
        self._limit = limit
        self._in_flight = 0
        self._waiting_total = 0
        # Half of the slots for a share. Messages to one user find more: broadcasts to slow push services
        # would make those to others among these wait.
        self._share_limits = (max(1, limit // 2), min(limit, max(limit // 2 + 1, int(limit * MAX_SHARE))))
        self._waiting_limit = max(8 * limit, MIN_WAITING_LIMIT)
        self._push_services = PushServices()
        self._busy: set[PushService] = set()  # have messages in flight
        self._slow_in_flight = 0
        self._fast: _Turns = (OrderedDict(), OrderedDict())
        self._slow: _Turns = (OrderedDict(), OrderedDict())
        self._waiting: Counter[tuple[PushService | None, bool]] = Counter()  # by share; None: the slow
        self._ended: Counter[PushService | None] = Counter()  # by share, in this interval
        self._ended_before: Counter[PushService | None] = Counter()  # in the interval before
        self._tasks: set[asyncio.Task[None]] = set()
        self._capacity = asyncio.Event()
        self._capacity.set()

    async def wait_for_capacity(self) -> None:
        """Wait until more messages are to be loaded: few wait, or a slot is free that none may use."""
        await self._capacity.wait()

    def add(self, push: Push) -> None:
        """Let a message wait for a slot."""
        push.push_service = self._push_services.of(push.recipient.endpoint)
        push.is_waiting = True
        is_direct = push.sender.is_direct
        push.push_service.waiting[is_direct].append(push)
        self._count_waiting(push, 1)
        self._turns(push.push_service)[is_direct].setdefault(push.push_service)

    def withdraw(self, push: Push) -> None:
        """Let a message wait no longer."""
        push.is_waiting = False  # removed from its queue when it is its turn
        self._count_waiting(push, -1)

    def excess(self, push: Push) -> int:
        """Return how many messages wait in vain in the share of a message."""
        share = self._share(push.push_service)
        ended = max(self._ended[share], self._ended_before[share])
        soon = max(self._share_limits[0], int(ended * LOOK_AHEAD / CHECK_INTERVAL))
        return max(0, self._waiting[share, push.sender.is_direct] - soon)

    def fill(self) -> None:
        """Begin messages while slots are free."""
        while self._in_flight + self._unrecorded < self._limit and (push := self._next()):
            self.withdraw(push)
            if push.sender.begin(push):
                self._begin(push)
        has_free_slot = self._in_flight + self._unrecorded < self._limit
        if self._waiting_total < (self._waiting_limit if has_free_slot else self._limit):
            self._capacity.set()
        else:
            self._capacity.clear()

    def recorded(self, number: int) -> None:
        """Free the slots of messages whose outcomes are recorded."""
        self._unrecorded -= number
        self.fill()

    def check(self) -> None:
        """Notice push services that do not respond; call it every CHECK_INTERVAL."""
        self._ended_before, self._ended = self._ended, Counter()
        for push_service in list(self._busy):
            was_slow = push_service.is_slow
            push_service.check()
            self._moved(push_service, was_slow=was_slow)
        self.fill()

    def _begin(self, push: Push) -> None:
        push_service = push.push_service
        try:
            is_trial = push_service.breaker.begin()
        except CallRejectedError as error:
            push.sender.reject(push, error.retry_after)
            return
        started_at = push_service.begin()
        self._in_flight += 1
        self._slow_in_flight += push_service.is_slow
        self._busy.add(push_service)
        task = asyncio.create_task(self._send(push, started_at, is_trial))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, push: Push, started_at: float, is_trial: bool) -> None:
        try:
            outcome = await push.sender.send(push)
        finally:
            push.push_service.breaker.end(is_trial)
        self._end(push, started_at, outcome)

    def _end(self, push: Push, started_at: float, outcome: Outcome) -> None:
        push_service = push.push_service
        was_slow = push_service.is_slow
        self._ended[self._share(push_service)] += 1
        self._in_flight -= 1
        self._slow_in_flight -= was_slow
        push_service.end(started_at, push.recipient.id, outcome)
        if not push_service.in_flight:
            self._busy.discard(push_service)
        self._moved(push_service, was_slow=was_slow)
        self._unrecorded += 1
        push.sender.end(push, outcome)
        if self._unrecorded >= self._limit / 4:
            self._on_unrecorded()
        self.fill()

    def _next(self) -> Push | None:
        for is_direct in (True, False):
            while push_service := self._next_push_service(is_direct):
                queue = push_service.waiting[is_direct]
                push: Push = queue.popleft()
                if not queue:
                    self._turns(push_service)[is_direct].pop(push_service, None)
                if push.is_waiting:
                    return push
        return None

    def _next_push_service(self, is_direct: bool) -> PushService | None:
        # Of the share with the fewest messages in flight; within the slow ones' share they take turns.
        found, fewest = None, self._share_limits[is_direct]
        for push_service in islice(self._fast[is_direct], COMPARED_SHARES):
            if push_service.in_flight < fewest and push_service.may_begin(is_direct):
                found, fewest = push_service, push_service.in_flight
        slow = self._slow[is_direct]
        if slow and self._slow_in_flight < fewest:
            found = next((each for each in slow if each.may_begin(is_direct)), found)
        if found:
            self._turns(found)[is_direct].move_to_end(found)
        return found

    def _turns(self, push_service: PushService) -> _Turns:
        return self._slow if push_service.is_slow else self._fast

    def _moved(self, push_service: PushService, *, was_slow: bool) -> None:
        # From its own share to the slow ones' or back.
        if push_service.is_slow == was_slow:
            return
        before, after = (self._fast, self._slow) if push_service.is_slow else (self._slow, self._fast)
        self._slow_in_flight += push_service.in_flight * (1 if push_service.is_slow else -1)
        for is_direct in (False, True):
            before[is_direct].pop(push_service, None)
            if push_service.waiting[is_direct]:
                after[is_direct].setdefault(push_service)
            number = sum(push.is_waiting for push in push_service.waiting[is_direct])
            self._waiting[None if was_slow else push_service, is_direct] -= number
            self._waiting[self._share(push_service), is_direct] += number

    def _count_waiting(self, push: Push, number: int) -> None:
        self._waiting_total += number
        self._waiting[self._share(push.push_service), push.sender.is_direct] += number

    @staticmethod
    def _share(push_service: PushService) -> PushService | None:
        return None if push_service.is_slow else push_service
