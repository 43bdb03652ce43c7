"""Addresses of push services' names, looked up in threads of their own: one that hangs delays no other."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

LOOKUP_REUSE = 60  # seconds
MAX_LOOKUPS = 256  # threads; each waits for name servers for 10 seconds or more
MAX_NAMES = 10_000  # endpoints are user input

Resolve = Callable[[str, int], Sequence[str]]


def look_up(name: str, port: int) -> list[str]:
    """Return the addresses of a name, by DNS and `/etc/hosts`, or an address as it is. Raises OSError."""
    found = socket.getaddrinfo(name.strip("[]"), port, type=socket.SOCK_STREAM)
    return [str(address[0]).partition("%")[0] for *_, address in found]


class Resolver:
    """Looks up names, each at most once at a time.

    `resolve` is called in a daemon thread, which a program that ends does not wait for.
    """

    def __init__(self, resolve: Resolve = look_up):
        self._resolve = resolve
        self._known: dict[tuple[str, int], tuple[Sequence[str], float]] = {}  # until, on the monotonic clock
        self._lookups: dict[tuple[str, int], asyncio.Future[Sequence[str] | OSError]] = {}

    async def addresses(self, name: str, port: int, timeout: float) -> Sequence[str]:
        """Return the addresses of a name within `timeout` seconds. Known ones are used until newer are found.

        Raises OSError.
        """
        addresses, reusable_until = self._known.get((name, port), ((), 0.0))
        if reusable_until > time.monotonic():
            return addresses
        lookup = self._lookups.get((name, port)) or self._start(name, port)
        if addresses:
            return addresses
        await asyncio.wait([lookup], timeout=timeout)  # which does not cancel it: others may wait for it too
        found = lookup.result() if lookup.done() else TimeoutError("name look-up timed out")
        if isinstance(found, OSError):
            raise found
        return found

    def _start(self, name: str, port: int) -> "asyncio.Future[Sequence[str] | OSError]":
        loop = asyncio.get_running_loop()
        lookup: asyncio.Future[Sequence[str] | OSError] = loop.create_future()
        if len(self._lookups) >= MAX_LOOKUPS:
            lookup.set_result(OSError("too many name look-ups in progress"))
            return lookup

        def run() -> None:
            try:
                found: Sequence[str] | OSError = self._resolve(name, port)
            except (OSError, UnicodeError) as error:
                found = OSError(f"name look-up failed: {error}")
            with suppress(RuntimeError):  # the event loop was closed meanwhile
                loop.call_soon_threadsafe(self._finish, name, port, found)

        self._lookups[name, port] = lookup
        threading.Thread(target=run, name=f"look up {name}", daemon=True).start()
        return lookup

    def _finish(self, name: str, port: int, found: Sequence[str] | OSError) -> None:
        if not isinstance(found, OSError):
            self._known.pop((name, port), None)
            self._known[name, port] = found, time.monotonic() + LOOKUP_REUSE
            if len(self._known) > MAX_NAMES:
                del self._known[next(iter(self._known))]
        self._lookups.pop((name, port)).set_result(found)
