"""Delivery to many push services: one that fails or does not respond delays its own messages only."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ..circuit_breaker import Bulkhead, CallRejectedError, CircuitBreaker
from ..webpush.client import Client, Recipient
from ..webpush.responses import RETRY, Outcome, Result
from ..webpush.transport import CONNECT_TIMEOUT

MAX_CONCURRENCY_PER_ORIGIN = 64  # messages of one batch
FAILURE_THRESHOLD = 10  # consecutive failures
RESET_TIMEOUT = 10  # seconds
MAX_RESET_TIMEOUT = 300  # seconds
UNRESPONSIVE_AFTER = 1  # seconds without a response to any message in flight
LOG_INTERVAL = 60  # seconds between log lines about one push service
MAX_TRACKED_ORIGINS = 10_000  # endpoints are user input

CREDENTIAL_CHECKLIST = "PUSH_VAPID_PRIVATE_KEY, PUSH_VAPID_SUBJECT and the clock"

logger = logging.getLogger(__name__)


def _authority(endpoint: str) -> str:
    return "/".join(endpoint.split("/", 3)[:3]).lower()


def _circuit_breaker() -> CircuitBreaker:
    return CircuitBreaker(FAILURE_THRESHOLD, reset_timeout=RESET_TIMEOUT, max_reset_timeout=MAX_RESET_TIMEOUT)


@dataclass(slots=True)
class _PushService:
    """Delivery state of one origin."""

    breaker: CircuitBreaker = field(default_factory=_circuit_breaker)
    bulkhead: Bulkhead = field(default_factory=lambda: Bulkhead(UNRESPONSIVE_AFTER))
    next_log_at: float = 0.0  # on the monotonic clock


class PushServices:
    """Delivers messages with a client, which it opens and closes."""

    def __init__(self, client: Client):
        self._client = client
        self._push_services: dict[str, _PushService] = {}  # by scheme and authority

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.__aexit__(*exception)

    async def deliver(
        self, recipients: Sequence[Recipient], payload_for: Callable[[Recipient], bytes], **options: Any
    ) -> list[Outcome]:
        """Send each recipient its payload concurrently, and return the outcomes in their order.

        `options` are those of `Client.push`.
        """
        outcomes: list[Outcome] = [RETRY] * len(recipients)
        by_authority: defaultdict[str, list[int]] = defaultdict(list)
        for position, recipient in enumerate(recipients):
            by_authority[_authority(recipient.endpoint)].append(position)

        async def deliver_sequentially(positions: Iterator[int]) -> None:
            for position in positions:
                outcomes[position] = await self._deliver(recipients[position], payload_for, options)

        coroutines = (
            deliver_sequentially(pending)
            for positions in by_authority.values()
            for pending in [iter(positions)] * min(MAX_CONCURRENCY_PER_ORIGIN, len(positions))
        )
        await asyncio.gather(*coroutines)
        return outcomes

    async def _deliver(
        self, recipient: Recipient, payload_for: Callable[[Recipient], bytes], options: dict[str, Any]
    ) -> Outcome:
        authority = _authority(recipient.endpoint)
        push_service = self._push_service(authority)
        breaker = push_service.breaker
        started_at = time.monotonic()
        try:
            with breaker.call(), push_service.bulkhead.call():
                outcome = await self._client.push(recipient, payload_for(recipient), **options)
                if outcome.result is Result.RETRY:
                    # A whole connect time-out without a success opens the circuit at once.
                    elapsed = time.monotonic() - started_at
                    timed_out = elapsed >= CONNECT_TIMEOUT and breaker.last_success < started_at
                    weight = FAILURE_THRESHOLD if timed_out else 1
                    breaker.record_failure(outcome.retry_after or 0.0, weight=weight)
                else:
                    breaker.record_success()
        except CallRejectedError as error:
            return Outcome(Result.RETRY, error.retry_after)
        self._log(push_service, authority, recipient, outcome)
        return outcome

    def _push_service(self, authority: str) -> _PushService:
        push_service = self._push_services.get(authority)
        if push_service is None:
            if len(self._push_services) >= MAX_TRACKED_ORIGINS:
                self._push_services.clear()  # rebuilt on demand
            push_service = self._push_services[authority] = _PushService()
        return push_service

    @staticmethod
    def _log(push_service: _PushService, origin: str, recipient: Recipient, outcome: Outcome) -> None:
        # Rate-limited: a fan-out repeats the same failure thousands of times.
        now = time.monotonic()
        failed = outcome.result is Result.FAILED
        unreachable = outcome.result is Result.RETRY and not outcome.status
        if not (failed or unreachable) or push_service.next_log_at > now:
            return
        push_service.next_log_at = now + LOG_INTERVAL
        status, reason = outcome.status, outcome.reason
        if outcome.credentials_rejected:
            text = "%s rejected our credentials with status %d: %s: check %s"
            logger.error(text, origin, status, reason, CREDENTIAL_CHECKLIST)
        elif failed and not status:
            logger.warning("%s was not asked: subscription %d: %s", origin, recipient.id, reason)
        elif failed:
            text = "%s rejected subscription %d with status %d: %s"
            logger.warning(text, origin, recipient.id, status, reason)
        else:
            logger.warning("%s connection failed: %s", origin, reason)
