"""Encrypt and POST (RFC 8291, RFC 8030). Knows nothing of Flask or the queue."""

import asyncio
import logging
import os
import time
from base64 import urlsafe_b64decode
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import aiohttp
import http_ece
from aiohttp.abc import AbstractResolver
from cryptography.hazmat.primitives.asymmetric import ec
from yarl import URL

from .circuit_breaker import CircuitBreaker, CircuitOpenError
from .messages import Urgency
from .outcomes import AGAIN, Outcome, Result, judge
from .push_services import Origin, check_endpoint, origin_of
from .resolver import PublicResolver

CONNECT_TIMEOUT = 5  # seconds
TOTAL_TIMEOUT = 10  # seconds, for one message
MAX_CONNECTIONS = 128  # to one origin; in all there may be as many as there are messages in flight
AT_ONCE = 64  # messages of one slice to one origin
MAX_ANSWER = 64 * 1024  # bytes read of an answer
FAILURES_BEFORE_PAUSE = 10  # in a row
FIRST_PAUSE = 10  # seconds
MAX_PAUSE = 300  # seconds
SILENCE = 1  # seconds without an answer to any of those that wait for one: no others join them
SECONDS_BETWEEN_LOG_LINES = 60  # about one push service
MAX_REMEMBERED = 10_000  # push services; anybody can bring endpoints of new ones

OUR_OWN_FAULTS = "PUSH_VAPID_PRIVATE_KEY, PUSH_VAPID_SUBJECT and the clock"

logger = logging.getLogger(__name__)


class Recipient(Protocol):
    """What delivery needs to know of a subscription."""

    @property
    def id(self) -> int:
        """What the log calls it by."""

    @property
    def endpoint(self) -> str:
        """Where its push messages are posted."""

    @property
    def keys_p256dh(self) -> str:
        """The user agent's public key, as base64url."""

    @property
    def keys_auth(self) -> str:
        """Its authentication secret, as base64url."""


def encrypt(payload: bytes, p256dh: str, auth: str) -> bytes:
    """Return a payload encrypted for one subscription (RFC 8291, section 3), in one record.

    The key pair and the salt are fresh each time.
    """
    body: bytes = http_ece.encrypt(
        payload,
        salt=os.urandom(16),
        private_key=ec.generate_private_key(ec.SECP256R1()),
        dh=_decode(p256dh),
        auth_secret=_decode(auth),
        version="aes128gcm",
    )
    return body


def _authority(endpoint: str) -> str:
    return "/".join(endpoint.split("/", 3)[:3]).lower()


def _breaker() -> CircuitBreaker:
    return CircuitBreaker(FAILURES_BEFORE_PAUSE, pause=FIRST_PAUSE, max_pause=MAX_PAUSE, silence=SILENCE)


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(slots=True)
class _PushService:
    """One that is agreed to. When it is away or overrun, it must not hold up the others."""

    origin: Origin
    breaker: CircuitBreaker = field(default_factory=_breaker)
    log_silent_until: float = 0.0  # on the monotonic clock


class Delivery:
    """Keeps connections to push services, and delivers messages over them.

    `authorization` returns the Authorization header for an origin; `trusted` are origins that may be
    anywhere; `resolver` finds addresses in place of the system's; `observe` is told of each push its
    origin, outcome, and seconds.
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
        places = {(origin.host.strip("[]"), origin.port) for origin in map(origin_of, self._trusted)}
        self._public_resolver = PublicResolver(places, self._resolver)
        connector = aiohttp.TCPConnector(
            resolver=self._public_resolver,
            limit=0,
            limit_per_host=MAX_CONNECTIONS,
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
        """Send a payload to each recipient, all at once, and return what became of each, in order.

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
        outcomes: list[Outcome] = [AGAIN] * len(recipients)
        by_authority: defaultdict[str, list[int]] = defaultdict(list)
        for position, recipient in enumerate(recipients):
            by_authority[_authority(recipient.endpoint)].append(position)

        async def deliver_in_turn(positions: Iterator[int]) -> None:
            for position in positions:
                outcomes[position] = await self._deliver(recipients[position], payload, headers)

        # Each push service by itself, so that a silent one costs only its own.
        lanes = (
            deliver_in_turn(waiting)
            for positions in by_authority.values()
            for waiting in [iter(positions)] * min(AT_ONCE, len(positions))
        )
        await asyncio.gather(*lanes)
        return outcomes

    async def _deliver(self, recipient: Recipient, payload: bytes, headers: dict[str, str]) -> Outcome:
        try:
            push_service = self._push_service(recipient.endpoint)
        except ValueError:
            return Outcome(Result.FAILED, blames_subscription=True)
        breaker = push_service.breaker
        began = time.monotonic()
        try:
            with breaker.attempt():
                outcome = await self._try(push_service, recipient, payload, headers)
                if outcome.result is Result.AGAIN:
                    # One that has answered nobody for so long needs no second proof.
                    waited = time.monotonic() - began >= CONNECT_TIMEOUT and breaker.last_success < began
                    weight = FAILURES_BEFORE_PAUSE if waited else 1
                    breaker.failed(outcome.retry_after or 0.0, weight=weight)
                else:
                    breaker.succeeded()
        except CircuitOpenError as error:
            return Outcome(Result.AGAIN, error.seconds)
        return outcome

    async def _try(
        self, push_service: _PushService, recipient: Recipient, payload: bytes, headers: dict[str, str]
    ) -> Outcome:
        name = str(push_service.origin)
        headers = {**headers, "Authorization": self._authorization(name)}
        if push_service.origin.host.endswith(".notify.windows.com"):
            headers["X-WNS-Cache-Policy"] = "no-cache" if headers["TTL"] == "0" else "cache"
        began = time.monotonic()
        try:
            body = encrypt(payload, recipient.keys_p256dh, recipient.keys_auth)
            outcome, status = await self._post(recipient.endpoint, body, headers)
        except aiohttp.InvalidURL:
            return Outcome(Result.FAILED, blames_subscription=True)
        except (
            aiohttp.ClientError,
            TimeoutError,
            OSError,
        ) as error:  # before ValueError: TLS errors are both
            # A name that leads inside is refused here too, and may lead outside again later.
            self._log(logging.WARNING, push_service, "cannot be reached: %s", type(error).__name__)
            outcome, status = AGAIN, 0
        except ValueError:  # no keys after all
            return Outcome(Result.FAILED, blames_subscription=True)
        if self._observe:
            self._observe(name, outcome, time.monotonic() - began)
        if outcome.result is Result.FAILED:
            if outcome.blames_subscription:
                self._log(logging.WARNING, push_service, "refused subscription %d (%d)", recipient.id, status)
            else:
                self._log(logging.ERROR, push_service, "refuses us (%d): check %s", status, OUR_OWN_FAULTS)
        return outcome

    def _push_service(self, endpoint: str) -> _PushService:
        authority = _authority(endpoint)
        known = self._push_services.get(authority)
        if known is None:
            check_endpoint(endpoint, self._trusted)
            if len(self._push_services) >= MAX_REMEMBERED:
                self._push_services.clear()  # what matters is learned again
            known = self._push_services[authority] = _PushService(origin_of(endpoint))
        return known

    async def _post(self, endpoint: str, body: bytes, headers: dict[str, str]) -> tuple[Outcome, int]:
        url = URL(endpoint, encoded=True)  # exactly as the push service gave it
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            answer = b""
            while len(answer) < MAX_ANSWER and (
                piece := await response.content.read(MAX_ANSWER - len(answer))
            ):
                answer += piece
            if not response.content.at_eof():
                response.close()  # the rest would have to be read before the connection is used again
            return judge(response.status, response.headers.get("Retry-After"), answer), response.status

    def _log(self, level: int, push_service: _PushService, text: str, *values: object) -> None:
        # A fan-out meets the same trouble thousands of times: one line a minute says it.
        now = time.monotonic()
        if push_service.log_silent_until <= now:
            push_service.log_silent_until = now + SECONDS_BETWEEN_LOG_LINES
            logger.log(level, f"%s {text}", push_service.origin, *values)
