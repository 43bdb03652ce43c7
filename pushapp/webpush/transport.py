"""HTTP requests to push services with libcurl: HTTP/2 where they speak it, over reused connections."""

import asyncio
import math
import os
import re
import resource
import socket
import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple, Self

import certifi
import pycurl

from .endpoints import Origin, is_public_address
from .resolver import MAX_LOOKUPS, Resolve, Resolver, look_up

CONNECT_TIMEOUT = 5  # seconds, name look-up and TLS included
TOTAL_TIMEOUT = 10  # seconds, for one request
BODY_TIMEOUT = 1  # seconds after the headers of a response, twice that at most
MAX_BODY_BYTES = 64 * 1024  # of a response; libcurl bounds the headers at 300 KB
UPLOAD_BUFFER_BYTES = 16 * 1024  # of each handle; the least that libcurl allows
MAX_CONNECTIONS = 512
MAX_SHARE = 3 / 4  # of them, to one origin
MAX_IDLE_TIME = 60  # seconds that a connection may be unused before it is closed
MAX_CONNECTION_AGE = 60 * 60  # seconds
OTHER_DESCRIPTORS = 128  # for the database, files and pipes

SOCKET_BAD: int = pycurl.SOCKET_BAD

_STATUS_LINE = re.compile(rb"HTTP/\S+ +([0-9]{3})\s", re.IGNORECASE)  # libcurl also takes 201x and 2000

# Options of libcurl that pycurl has no names for.
_SUPPRESS_CONNECT_HEADERS = 265
_DISALLOW_USERNAME_IN_URL = 278


class Response(NamedTuple):
    """A response, or the error that came instead of one (with status 0)."""

    status: int
    retry_after: float = 0.0  # seconds; 0 without the header
    body: bytes = b""  # or the beginning of it
    is_multiplexed: bool = False  # one connection for many requests (HTTP/2)
    error: str = ""


class Transport:
    """Posts requests concurrently; the arguments are those of `Client`.

    Once it is entered, `max_connections` is what the limit of file descriptors allows. Of more requests at
    once, or more than MAX_SHARE of them to one origin, some wait in libcurl's one queue, where those to a
    slow origin may be ahead of the others.
    """

    def __init__(
        self, proxy: str | None = None, resolve: Resolve = look_up, max_connections: int = MAX_CONNECTIONS
    ):
        self._proxy = proxy
        self._resolver = Resolver(resolve)
        self.max_connections = max_connections
        self._idle: list[_Exchange] = []
        self._in_flight: set[_Exchange] = set()

    async def __aenter__(self) -> Self:
        reserved = MAX_LOOKUPS + OTHER_DESCRIPTORS
        available = _allow_descriptors(self.max_connections + reserved)
        self.max_connections = min(self.max_connections, max(available - reserved, available // 2))
        self._authorities = os.environ.get("SSL_CERT_FILE") or certifi.where()
        self._multi = pycurl.AsyncCurlMulti()
        self._multi.setopt(pycurl.M_PIPELINING, 2)  # HTTP/2 multiplexing
        self._multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, self.max_connections)
        self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, math.ceil(self.max_connections * MAX_SHARE))
        self._multi.setopt(pycurl.M_MAXCONNECTS, self.max_connections)
        self._cutter = asyncio.create_task(self._cut_bodies())
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._cutter.cancel()
        await self._multi.aclose()
        for exchange in self._idle:
            exchange.curl.close()
        self._idle.clear()

    async def post(
        self, url: str, origin: Origin, headers: Sequence[str], body: bytes, *, only_public: bool
    ) -> Response:
        """Post a body, and return the response.

        `only_public` refuses connections to addresses that are not public; a proxy checks them itself.
        Nothing that a server does raises an exception.
        """
        try:
            addresses = await self._addresses(origin)
        except OSError as failure:
            return Response(0, error=str(failure))
        exchange = self._idle.pop() if self._idle else _Exchange(self._proxy, self._authorities)
        only_public = only_public and not self._proxy
        exchange.prepare(url, origin, headers, body, addresses=addresses, only_public=only_public)
        self._in_flight.add(exchange)
        try:
            await exchange.run(self._multi)
            response = exchange.response()
        except pycurl.error as failure:
            response = exchange.response(str(failure.args[-1]))
        except BaseException:  # cancellation, or the transport was closed
            exchange.curl.close()
            raise
        finally:
            self._in_flight.discard(exchange)
        self._idle.append(exchange)
        return response

    async def connect(self, origin: Origin, *, only_public: bool) -> None:
        """Connect as `post` does, TLS included, and close the connection.

        Raises ssl.SSLCertVerificationError; ConnectionError for another reason of the server, the proxy or
        the network; another OSError for the name and its addresses.
        """
        addresses = await self._addresses(origin)
        exchange = _Exchange(self._proxy, self._authorities)
        only_public = only_public and not self._proxy
        exchange.prepare(str(origin), origin, [], b"", addresses=addresses, only_public=only_public)
        exchange.curl.setopt(pycurl.CONNECT_ONLY, 1)
        try:
            await exchange.run(self._multi)
        except pycurl.error as failure:
            code, reason = failure.args
            if exchange.refused:
                raise OSError(exchange.refused) from None
            if code == pycurl.E_PEER_FAILED_VERIFICATION:
                raise ssl.SSLCertVerificationError(code, reason) from None
            raise ConnectionError(reason) from None
        finally:
            exchange.curl.close()

    async def _cut_bodies(self) -> None:
        while True:
            await asyncio.sleep(BODY_TIMEOUT)
            for exchange in list(self._in_flight):
                exchange.cut_body()

    async def _addresses(self, origin: Origin) -> Sequence[str] | None:
        if self._proxy:
            return None
        return await self._resolver.addresses(origin.host, origin.port, CONNECT_TIMEOUT)


class _Exchange:
    """A handle of libcurl, for one request and its response after another."""

    def __init__(self, proxy: str | None, authorities: str):
        self.curl = pycurl.Curl()
        self._only_public = True
        self._headers: Sequence[str] = ()
        self._head: list[bytes] = []  # lines of the response
        self.refused = ""  # why no socket was opened
        for option, value in {
            pycurl.POST: 1,
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.PATH_AS_IS: 1,
            _DISALLOW_USERNAME_IN_URL: 1,
            pycurl.FOLLOWLOCATION: 0,
            pycurl.PROXY: proxy or "",  # empty: the environment's is ignored
            pycurl.NOPROXY: "",
            _SUPPRESS_CONNECT_HEADERS: 1,  # a proxy's response is none of the push service
            pycurl.CAINFO: authorities,
            pycurl.PROXY_CAINFO: authorities,
            pycurl.CONNECTTIMEOUT_MS: int(CONNECT_TIMEOUT * 1000),
            pycurl.TIMEOUT_MS: int(TOTAL_TIMEOUT * 1000),
            pycurl.MAXAGE_CONN: MAX_IDLE_TIME,
            pycurl.MAXLIFETIME_CONN: MAX_CONNECTION_AGE,
            pycurl.NOSIGNAL: 1,
            pycurl.UPLOAD_BUFFERSIZE: UPLOAD_BUFFER_BYTES,
            pycurl.OPENSOCKETFUNCTION: self._open_socket,
            pycurl.HEADERFUNCTION: self._head.append,
            pycurl.WRITEFUNCTION: self._on_body,
        }.items():
            self.curl.setopt(option, value)

    def prepare(
        self,
        url: str,
        origin: Origin,
        headers: Sequence[str],
        body: bytes,
        *,
        addresses: Sequence[str] | None,
        only_public: bool,
    ) -> None:
        """Set what differs between requests."""
        self._only_public = only_public
        self.refused = ""
        self._head.clear()
        self._body = bytearray()
        self._lacks_body = False  # although its headers are complete
        self.curl.setopt(pycurl.URL, url)
        # Wait for a connection that may turn out to be HTTP/2, instead of opening one more.
        self.curl.setopt(pycurl.PIPEWAIT, origin.scheme == "https")
        if headers is not self._headers:  # else libcurl still has them
            self.curl.setopt(pycurl.HTTPHEADER, headers)
            self._headers = headers
        self.curl.setopt(pycurl.POSTFIELDS, body)
        if addresses is not None:  # instead of libcurl's own look-up
            self.curl.setopt(pycurl.RESOLVE, [f"+{origin.host}:{origin.port}:{','.join(addresses)}"])

    async def run(self, multi: pycurl.AsyncCurlMulti) -> None:
        """Send the request, and receive the response or the beginning of it."""
        self._done = multi.add_handle(self.curl)
        await self._done

    def response(self, error: str = "") -> Response:
        """Return the response that was received. Its status counts, whatever became of the body."""
        status = _final_status(self._head)
        if not status:
            return Response(0, error=self.refused or error or "invalid response")
        is_multiplexed = self.curl.getinfo(pycurl.INFO_HTTP_VERSION) >= pycurl.CURL_HTTP_VERSION_2_0
        return Response(status, self.curl.getinfo(pycurl.RETRY_AFTER), bytes(self._body), is_multiplexed)

    def cut_body(self) -> None:
        """End the response if its headers were complete at the last call already."""
        if self._lacks_body and not self._done.done():
            self._done.set_result(self.curl)  # which removes the handle
        self._lacks_body = _final_status(self._head) > 0

    def _open_socket(self, _purpose: int, address: Any) -> socket.socket | int:
        host: str = address.addr[0]
        if self._only_public and not is_public_address(ip_address(host.partition("%")[0])):
            self.refused = f"{host} is no public address"
            return SOCKET_BAD
        return _Socket(address.family, address.socktype, address.protocol)

    def _on_body(self, data: bytes) -> int | None:
        self._body += data[: MAX_BODY_BYTES - len(self._body)]
        return None if len(self._body) < MAX_BODY_BYTES else -1  # -1 ends the transfer


def _final_status(lines: Sequence[bytes]) -> int:
    """Return the status of a response; 0 before its headers are complete. Trailers may follow them."""
    status = 0
    for line in lines:
        if match := _STATUS_LINE.match(line):  # also each informational response has one
            status = int(match[1])
        elif status >= 200 and not line.strip():
            return status
    return 0


class _Socket(socket.socket):
    """A socket that libcurl duplicates; this one is closed with its last reference."""

    def __del__(self) -> None:
        self.close()


def _allow_descriptors(wanted: int) -> int:
    """Raise the limit of file descriptors to the hard one if it is too low; return how many are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)
