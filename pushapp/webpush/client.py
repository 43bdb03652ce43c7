"""Connections to push services: encrypt a message and post it (RFC 8030, section 5)."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from ..circuit_breaker import Bulkhead, CallRejectedError, CircuitBreaker
from .encryption import encrypt
from .endpoints import Origin, check_endpoint, origin_of
from .message import Urgency
from .resolver import PublicResolver
from .responses import RETRY, Outcome, Result, classify_response

CONNECT_TIMEOUT = 5  # seconds
TOTAL_TIMEOUT = 10  # seconds, for one message
MAX_CONNECTIONS_PER_ORIGIN = 128
MAX_CONCURRENCY_PER_ORIGIN = 64  # messages of one batch
MAX_RESPONSE_BYTES = 64 * 1024
FAILURE_THRESHOLD = 10  # consecutive failures
RESET_TIMEOUT = 10  # seconds
MAX_RESET_TIMEOUT = 300  # seconds
UNRESPONSIVE_AFTER = 1  # seconds without a response to any message in flight
LOG_INTERVAL = 60  # seconds between log lines about one push service
MAX_TRACKED_ORIGINS = 10_000  # endpoints are user input

CREDENTIAL_CHECKLIST = "PUSH_VAPID_PRIVATE_KEY, PUSH_VAPID_SUBJECT and the clock"

logger = logging.getLogger(__name__)


class Recipient(Protocol):
    """The fields of a subscription that delivery needs."""

    @property
    def id(self) -> int:
        """Its name in the log."""

    @property
    def endpoint(self) -> str:
        """The URL that push messages are posted to."""

    @property
    def keys_p256dh(self) -> str:
        """The user agent's public key, base64url."""

    @property
    def keys_auth(self) -> str:
        """The user agent's authentication secret, base64url."""


def _authority(endpoint: str) -> str:
    return "/".join(endpoint.split("/", 3)[:3]).lower()


def _circuit_breaker() -> CircuitBreaker:
    return CircuitBreaker(FAILURE_THRESHOLD, reset_timeout=RESET_TIMEOUT, max_reset_timeout=MAX_RESET_TIMEOUT)


@dataclass(slots=True)
class _PushService:
    """Delivery state of one origin: its failures and delays must not affect other push services."""

    origin: Origin
    breaker: CircuitBreaker = field(default_factory=_circuit_breaker)
    bulkhead: Bulkhead = field(default_factory=lambda: Bulkhead(UNRESPONSIVE_AFTER))
    next_log_at: float = 0.0  # on the monotonic clock


class Client:
    """Delivers messages over reused connections to push services.

    `authorization` returns the Authorization header for an origin; origins in `trusted` bypass the SSRF
    check; `resolver` replaces DNS; `observe` is called with the origin, outcome and duration in seconds of
    each push.
    """

    def __init__(
        self,
        authorization: Callable[[str], str],
        trusted: Collection[str] = (),
        *,
        resolver: AbstractResolver | None = None,
        observe: Callable[[str, Outcome, float], None] | None = None,
    ):
        self._authorization = authorization
        self._trusted = trusted
        self._observe = observe
        self._push_services: dict[str, _PushService] = {}  # by scheme and authority
        self._resolver = resolver

    async def __aenter__(self) -> Self:
        trusted = {(origin.host.strip("[]"), origin.port) for origin in map(origin_of, self._trusted)}
        self._public_resolver = PublicResolver(trusted, self._resolver)
        connector = aiohttp.TCPConnector(
            resolver=self._public_resolver,
            limit=0,
            limit_per_host=MAX_CONNECTIONS_PER_ORIGIN,
            keepalive_timeout=60,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=TOTAL_TIMEOUT, sock_connect=CONNECT_TIMEOUT),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        )
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._session.close()
        await self._public_resolver.close()

    async def deliver(
        self,
        recipients: Sequence[Recipient],
        payload: bytes,
        *,
        ttl: int,
        urgency: Urgency,
        topic: str | None,
    ) -> list[Outcome]:
        """Send a payload to the recipients concurrently, and return the outcomes in their order.

        `ttl` is in seconds.
        """
        headers = {
            "TTL": str(ttl),
            "Urgency": urgency.value,
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
        }
        if topic is not None:
            headers["Topic"] = topic
        outcomes: list[Outcome] = [RETRY] * len(recipients)
        by_authority: defaultdict[str, list[int]] = defaultdict(list)
        for position, recipient in enumerate(recipients):
            by_authority[_authority(recipient.endpoint)].append(position)

        async def deliver_sequentially(positions: Iterator[int]) -> None:
            for position in positions:
                outcomes[position] = await self._deliver(recipients[position], payload, headers)

        # Coroutines per origin: a push service that does not respond delays its own messages only.
        coroutines = (
            deliver_sequentially(pending)
            for positions in by_authority.values()
            for pending in [iter(positions)] * min(MAX_CONCURRENCY_PER_ORIGIN, len(positions))
        )
        await asyncio.gather(*coroutines)
        return outcomes

    async def _deliver(self, recipient: Recipient, payload: bytes, headers: dict[str, str]) -> Outcome:
        try:
            push_service = self._push_service(recipient.endpoint)
        except ValueError:
            return Outcome(Result.FAILED, is_subscription_error=True)
        breaker = push_service.breaker
        started_at = time.monotonic()
        try:
            with breaker.call(), push_service.bulkhead.call():
                outcome = await self._try(push_service, recipient, payload, headers)
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
        return outcome

    async def _try(
        self, push_service: _PushService, recipient: Recipient, payload: bytes, headers: dict[str, str]
    ) -> Outcome:
        name = str(push_service.origin)
        headers = {**headers, "Authorization": self._authorization(name)}
        if push_service.origin.host.endswith(".notify.windows.com"):
            headers["X-WNS-Cache-Policy"] = "no-cache" if headers["TTL"] == "0" else "cache"
        started_at = time.monotonic()
        try:
            body = encrypt(payload, recipient.keys_p256dh, recipient.keys_auth)
            outcome, status = await self._post(recipient.endpoint, body, headers)
        except aiohttp.InvalidURL:
            return Outcome(Result.FAILED, is_subscription_error=True)
        except (
            aiohttp.ClientError,
            TimeoutError,
            OSError,
        ) as error:  # before ValueError: TLS errors are both
            # A name that resolves to a private address also ends here. DNS may change, so retry.
            self._log(logging.WARNING, push_service, "connection failed: %s", type(error).__name__)
            outcome, status = RETRY, 0
        except ValueError:  # invalid keys
            return Outcome(Result.FAILED, is_subscription_error=True)
        if self._observe:
            self._observe(name, outcome, time.monotonic() - started_at)
        if outcome.result is Result.FAILED:
            if outcome.is_subscription_error:
                text = "rejected subscription %d with status %d"
                self._log(logging.WARNING, push_service, text, recipient.id, status)
            else:
                text = "rejected our credentials with status %d: check %s"
                self._log(logging.ERROR, push_service, text, status, CREDENTIAL_CHECKLIST)
        return outcome

    def _push_service(self, endpoint: str) -> _PushService:
        authority = _authority(endpoint)
        push_service = self._push_services.get(authority)
        if push_service is None:
            check_endpoint(endpoint, self._trusted)
            if len(self._push_services) >= MAX_TRACKED_ORIGINS:
                self._push_services.clear()  # rebuilt on demand
            push_service = self._push_services[authority] = _PushService(origin_of(endpoint))
        return push_service

    async def _post(self, endpoint: str, body: bytes, headers: dict[str, str]) -> tuple[Outcome, int]:
        url = URL(endpoint, encoded=True)  # as the push service issued it, byte for byte
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            content = b""
            while len(content) < MAX_RESPONSE_BYTES and (
                chunk := await response.content.read(MAX_RESPONSE_BYTES - len(content))
            ):
                content += chunk
            if not response.content.at_eof():
                response.close()  # else the rest would have to be read before the connection is reused
            retry_after = response.headers.get("Retry-After")
            return classify_response(response.status, retry_after, content), response.status

    def _log(self, level: int, push_service: _PushService, text: str, *values: object) -> None:
        # Rate-limited: a fan-out repeats the same failure thousands of times.
        now = time.monotonic()
        if push_service.next_log_at <= now:
            push_service.next_log_at = now + LOG_INTERVAL
            logger.log(level, f"%s {text}", push_service.origin, *values)
