"""Push messages to push services: encrypt one and post it (RFC 8030, section 5)."""

import time
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Protocol, Self

from .encryption import encrypt
from .endpoints import check_endpoint
from .message import Urgency
from .resolver import Resolve, look_up
from .responses import WINDOWS_PUSH_SERVICE, Counted, Outcome, Result, classify_response, no_response
from .transport import MAX_CONNECTIONS, Transport

MAX_HEADERS = 1_000  # cached: of each batch and push service, the same for many messages


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

    @property
    def vapid_key(self) -> str | None:
        """The public key that it was subscribed with, base64url."""


class Client:
    """Posts messages over reused connections to push services.

    `authorization` returns the Authorization header for an origin and a VAPID key, or raises ValueError.
    Origins in `trusted` bypass the SSRF check. `proxy` is an http, https or socks5h URL: a proxy looks up the
    names of push services, and checks their addresses. `resolve` returns the addresses of a name and port; it
    may block. `observe` is called with the origin, outcome and duration in seconds of each push.
    """

    def __init__(
        self,
        authorization: Callable[[str, str | None], str],
        trusted: Collection[str] = (),
        *,
        proxy: str | None = None,
        resolve: Resolve = look_up,
        max_connections: int = MAX_CONNECTIONS,
        observe: Callable[[str, Outcome, float], None] | None = None,
    ):
        self._authorization = authorization
        self._trusted = frozenset(trusted)
        self._observe = observe
        self._transport = Transport(proxy, resolve, max_connections)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._transport.__aexit__(*exception)

    @property
    def max_in_flight(self) -> int:
        """How many pushes there may be at once, so that none waits for another's connection.

        That is `max_connections`, or less where the limit of file descriptors is lower.
        """
        return self._transport.max_connections

    async def push(
        self, recipient: Recipient, payload: bytes, *, ttl: int, urgency: Urgency, topic: str | None
    ) -> Outcome:
        """Encrypt a payload for a recipient, post it, and return what the push service's response means.

        `ttl` is in seconds. Nothing that a subscription holds or a push service does raises an exception.
        """
        try:
            origin = check_endpoint(recipient.endpoint, self._trusted)
            name = str(origin)
            authorization = self._authorization(name, recipient.vapid_key)
            body = encrypt(payload, recipient.keys_p256dh, recipient.keys_auth)
        except ValueError as error:
            return Outcome(Result.FAILED, counts_against=Counted.SUBSCRIPTION, reason=str(error))
        headers = _headers(origin.host, authorization, ttl, urgency, topic)
        started_at = time.monotonic()
        response = await self._transport.post(
            recipient.endpoint, origin, headers, body, only_public=name not in self._trusted
        )
        if response.status:
            outcome = classify_response(
                response.status,
                response.retry_after,
                response.body,
                host=origin.host,
                is_multiplexed=response.is_multiplexed,
            )
        else:
            # A name that resolves to a private address also ends here. DNS may change, so retry.
            outcome = no_response(response.error)
        if self._observe:
            self._observe(name, outcome, time.monotonic() - started_at)
        return outcome


@lru_cache(MAX_HEADERS)
def _headers(host: str, authorization: str, ttl: int, urgency: Urgency, topic: str | None) -> Sequence[str]:
    headers = [
        f"TTL: {ttl}",
        f"Urgency: {urgency.value}",
        f"Authorization: {authorization}",
        "Content-Encoding: aes128gcm",
        "Content-Type: application/octet-stream",
        "Accept:",  # libcurl leaves out those without a value
        "Expect:",
        "User-Agent:",
    ]
    if topic is not None:
        headers.append(f"Topic: {topic}")
    if host.endswith(WINDOWS_PUSH_SERVICE):
        headers.append(f"X-WNS-Cache-Policy: {'cache' if ttl else 'no-cache'}")
    return headers
