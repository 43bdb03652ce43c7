"""DNS resolver that returns public addresses only (protection against SSRF and DNS rebinding)."""

import socket
from collections.abc import Collection
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from .endpoints import is_public_address

LOOKUP_TIMEOUT = 1.5  # seconds, for the first query to a name server
LOOKUP_TRIES = 2  # queries to each name server; the second has a longer time-out


class PublicResolver(AbstractResolver):
    """Resolves the names of push services to their public addresses.

    The endpoint was checked when the subscription was stored; the address of the connection itself is
    checked here. A name server that does not respond occupies no thread.
    """

    def __init__(self, trusted: Collection[tuple[str, int]], resolver: AbstractResolver | None = None):
        self._trusted = trusted
        self._resolver = resolver or aiohttp.AsyncResolver(timeout=LOOKUP_TIMEOUT, tries=LOOKUP_TRIES)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return a host's public addresses.

        Raises OSError when there are none.
        """
        found = await self._resolver.resolve(host, port, family)
        if (host, port) in self._trusted:
            return found
        public = [result for result in found if is_public_address(ip_address(_without_zone(result["host"])))]
        if not public:
            raise OSError("the push service resolves to no public address")
        return public

    async def close(self) -> None:
        """Close the resolver."""
        await self._resolver.close()


def _without_zone(address: str) -> str:
    return address.partition("%")[0]
