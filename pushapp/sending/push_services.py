"""Push services as delivery has seen them: whether they respond, how fast, and what the log says of them."""

import logging
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

from ..circuit_breaker import CircuitBreaker
from ..webpush.responses import Counted, Outcome, Result
from ..webpush.transport import CONNECT_TIMEOUT

FAILURE_THRESHOLD = 10  # consecutive failures
RESET_TIMEOUT = 10  # seconds
MAX_RESET_TIMEOUT = 300  # seconds
THROTTLED_SUBSCRIPTIONS = 3  # from so many on, the push service is throttling us, not a subscription
SLOW_AFTER = 1  # seconds
MAX_HTTP_1_CONNECTIONS = (64, 96)  # to one without HTTP/2: for broadcasts, and for messages to one user
LOG_INTERVAL = 60  # seconds between log lines of one kind about one push service
MAX_TRACKED = 10_000  # push services; endpoints are user input

CREDENTIAL_CHECKLIST = "PUSH_VAPID_PRIVATE_KEY, PUSH_VAPID_SUBJECT and the clock"

logger = logging.getLogger(__name__)


def _circuit_breaker() -> CircuitBreaker:
    return CircuitBreaker(FAILURE_THRESHOLD, reset_timeout=RESET_TIMEOUT, max_reset_timeout=MAX_RESET_TIMEOUT)


@dataclass(slots=True, eq=False)
class PushService:
    """Delivery state of one origin."""

    origin: str
    breaker: CircuitBreaker = field(default_factory=_circuit_breaker)
    is_slow: bool = True  # until it responds within SLOW_AFTER
    is_multiplexed: bool = False  # until it responds over HTTP/2
    in_flight: int = 0
    # Messages that wait for a slot: of broadcasts, and to one user
    waiting: tuple[deque[Any], deque[Any]] = field(default_factory=lambda: (deque(), deque()))
    _busy_since: float = 0.0  # on the monotonic clock: without a response although messages are in flight
    _throttled: set[int] = field(default_factory=set)  # subscriptions, since the last message was accepted
    _next_log_at: dict[str, float] = field(default_factory=dict)  # by kind, on the monotonic clock

    @property
    def is_idle(self) -> bool:
        """Whether no message waits or is in flight."""
        return not (self.in_flight or any(self.waiting))

    def may_begin(self, is_direct: bool) -> bool:
        """Return whether a further message would find a connection."""
        return self.is_multiplexed or self.in_flight < MAX_HTTP_1_CONNECTIONS[is_direct]

    def begin(self) -> float:
        """Count a message in flight; return the time on the monotonic clock."""
        now = time.monotonic()
        if not self.in_flight:
            self._busy_since = now
        self.in_flight += 1
        return now

    def end(self, started_at: float, recipient_id: int, outcome: Outcome) -> None:
        """Take the outcome of a message that was in flight."""
        now = time.monotonic()
        self.in_flight -= 1
        if outcome.status:
            self._busy_since = now
            self.is_multiplexed = outcome.is_multiplexed
        if outcome.status or outcome.result is Result.RETRY:  # else it was not sent
            self.is_slow = not outcome.status or now - started_at > SLOW_AFTER
        self._count(started_at, now, recipient_id, outcome)
        self._log(now, recipient_id, outcome)

    def check(self) -> None:
        """Notice that messages in flight get no response."""
        if self.in_flight and time.monotonic() - self._busy_since > SLOW_AFTER:
            self.is_slow = True

    def _count(self, started_at: float, now: float, recipient_id: int, outcome: Outcome) -> None:
        if outcome.counts_against is Counted.PUSH_SERVICE:
            # A whole connect time-out without a success opens the circuit at once.
            timed_out = now - started_at >= CONNECT_TIMEOUT and self.breaker.last_success < started_at
            self.breaker.record_failure(weight=FAILURE_THRESHOLD if timed_out else 1)
        elif outcome.is_throttled:
            # The limit is a subscription's (RFC 8030, section 8.4), unless several have reached it.
            self._throttled.add(recipient_id)
            if len(self._throttled) >= THROTTLED_SUBSCRIPTIONS:
                self._throttled.clear()
                self.breaker.record_failure(outcome.retry_after, weight=FAILURE_THRESHOLD)
        elif outcome.result is not Result.RETRY and outcome.status:
            self._throttled.clear()
            self.breaker.record_success()

    def _log(self, now: float, recipient_id: int, outcome: Outcome) -> None:
        # Rate-limited by kind: a broadcast repeats the same failure thousands of times.
        failed = outcome.result is Result.FAILED
        if not failed and outcome.counts_against is not Counted.PUSH_SERVICE and not outcome.is_throttled:
            return
        kind = f"{outcome.status} {outcome.counts_against}"
        if self._next_log_at.get(kind, 0.0) > now:
            return
        self._next_log_at[kind] = now + LOG_INTERVAL
        status, reason = outcome.status, outcome.reason
        if outcome.credentials_rejected:
            text = "%s rejected our credentials with status %d: %s: check %s"
            logger.error(text, self.origin, status, reason, CREDENTIAL_CHECKLIST)
        elif failed and not status:
            logger.warning("%s: subscription %d is not sent to: %s", self.origin, recipient_id, reason)
        elif failed:
            text = "%s rejected subscription %d with status %d: %s"
            logger.warning(text, self.origin, recipient_id, status, reason)
        elif outcome.is_throttled:
            text = "%s limits subscription %d with status %d: %s"
            logger.warning(text, self.origin, recipient_id, status, reason)
        elif status:
            logger.warning("%s is unavailable with status %d: %s", self.origin, status, reason)
        else:
            logger.warning("%s connection failed: %s", self.origin, reason)


class PushServices:
    """The push services seen lately: MAX_TRACKED, and those with messages."""

    def __init__(self) -> None:
        self._by_origin: OrderedDict[str, PushService] = OrderedDict()

    def of(self, endpoint: str) -> PushService:
        """Return the push service of an endpoint."""
        origin = "/".join(endpoint.split("/", 3)[:3]).lower()
        found = self._by_origin.get(origin)
        if found is None:
            while len(self._by_origin) >= MAX_TRACKED and self._drop_idle():
                pass
            found = self._by_origin[origin] = PushService(origin)
        else:
            self._by_origin.move_to_end(origin)
        return found

    def _drop_idle(self) -> bool:
        # The one that was used least recently.
        for origin, push_service in self._by_origin.items():
            if push_service.is_idle:
                del self._by_origin[origin]
                return True
        return False
