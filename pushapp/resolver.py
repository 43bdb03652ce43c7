"""Finds the addresses of push services, on the way to dialling them, and refuses those inside."""

import socket
from collections.abc import Collection
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from .push_services import is_public_address

LOOKUP_TIMEOUT = 1.5  # seconds, for the first question to a name server
LOOKUPS = 2  # how often each name server is asked; the second time it may take longer


class PublicResolver(AbstractResolver):
    """Finds the addresses of push services, and refuses those that are not public.

    The name was checked when the subscription was stored; what it points to now is checked here, on
    the very address that is dialled. Name servers that do not answer take no thread from anybody.
    """

    def __init__(self, trusted: Collection[tuple[str, int]], resolver: AbstractResolver | None = None):
        self._trusted = trusted
        self._resolver = resolver or aiohttp.AsyncResolver(timeout=LOOKUP_TIMEOUT, tries=LOOKUPS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return a host's public addresses; raises OSError when there is none."""
        found = await self._resolver.resolve(host, port, family)
        if (host, port) in self._trusted:
            return found
        public = [one for one in found if is_public_address(ip_address(one["host"].partition("%")[0]))]
        if not public:
            raise OSError("the push service's name leads to no public address")
        return public

    async def close(self) -> None:
        """Let go of what finds the addresses."""
        await self._resolver.close()
