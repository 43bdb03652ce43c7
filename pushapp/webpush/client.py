"""Connections to push services: encrypt a message and post it (RFC 8030, section 5)."""

import time
from collections.abc import Callable, Collection
from typing import Protocol, Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from .encryption import encrypt
from .endpoints import check_endpoint, origin_of
from .message import Urgency
from .resolver import PublicResolver
from .responses import WINDOWS_PUSH_SERVICE, Counted, Outcome, Result, classify_response, no_response

CONNECT_TIMEOUT = 5  # seconds
TOTAL_TIMEOUT = 10  # seconds, for one message
MAX_CONNECTIONS_PER_ORIGIN = 128
MAX_RESPONSE_BYTES = 64 * 1024


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


class Client:
    """Posts messages over reused connections to push services.

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

    async def push(
        self, recipient: Recipient, payload: bytes, *, ttl: int, urgency: Urgency, topic: str | None
    ) -> Outcome:
        """Encrypt a payload for a recipient, post it, and return what the push service's response means.

        `ttl` is in seconds. Nothing that a subscription holds or a push service does raises an exception.
        """
        try:
            check_endpoint(recipient.endpoint, self._trusted)
            origin = origin_of(recipient.endpoint)
            body = encrypt(payload, recipient.keys_p256dh, recipient.keys_auth)
        except ValueError as error:
            return Outcome(Result.FAILED, counts_against=Counted.SUBSCRIPTION, reason=str(error))
        headers = {
            "TTL": str(ttl),
            "Urgency": urgency.value,
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "Authorization": self._authorization(str(origin)),
        }
        if topic is not None:
            headers["Topic"] = topic
        if origin.host.endswith(WINDOWS_PUSH_SERVICE):
            headers["X-WNS-Cache-Policy"] = "cache" if ttl else "no-cache"
        started_at = time.monotonic()
        try:
            outcome = await self._post(recipient.endpoint, origin.host, body, headers)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # A name that resolves to a private address also ends here. DNS may change, so retry.
            outcome = no_response(type(error).__name__)
        if self._observe:
            self._observe(str(origin), outcome, time.monotonic() - started_at)
        return outcome

    async def _post(self, endpoint: str, host: str, body: bytes, headers: dict[str, str]) -> Outcome:
        url = URL(endpoint, encoded=True)  # as the push service issued it, byte for byte
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            content = b""
            while len(content) < MAX_RESPONSE_BYTES and (
                chunk := await response.content.read(MAX_RESPONSE_BYTES - len(content))
            ):
                content += chunk
            if not response.content.at_eof():
                response.close()  # else the rest would have to be read before the connection is reused
            return classify_response(response.status, response.headers.get("Retry-After"), content, host=host)
