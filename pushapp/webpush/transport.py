"""HTTP requests to push services with libcurl: HTTP/2 where they speak it, over reused connections."""

import asyncio
import os
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
BODY_TIMEOUT = 1  # seconds after the headers of a response
MAX_BODY_BYTES = 64 * 1024  # of a response; libcurl bounds the headers at 300 KB
UPLOAD_BUFFER_BYTES = 16 * 1024  # of each handle; the least that libcurl allows
MAX_CONNECTIONS = 1024
# As many as there are messages in flight: libcurl has one queue for all that wait for a connection, in which
# those to one slow origin would be ahead of the others.
MAX_CONNECTIONS_PER_ORIGIN = 512
MAX_IDLE_TIME = 60  # seconds that a connection may be unused before it is closed
MAX_CONNECTION_AGE = 60 * 60  # seconds
OTHER_DESCRIPTORS = 128  # for the database, files and pipes

SOCKET_BAD: int = pycurl.SOCKET_BAD

# Options of libcurl that pycurl has no names for.
_SUPPRESS_CONNECT_HEADERS = 265
_DISALLOW_USERNAME_IN_URL = 278


class Response(NamedTuple):
    """A response, or the error that came instead of one (with status 0)."""

    status: int
    retry_after: str | None = None
    body: bytes = b""  # or the beginning of it
    error: str = ""


class Transport:
    """Posts requests concurrently; the arguments are those of `Client`."""

    def __init__(
        self, proxy: str | None = None, resolve: Resolve = look_up, max_connections: int = MAX_CONNECTIONS
    ):
        self._proxy = proxy
        self._resolver = Resolver(resolve)
        self._max_connections = max_connections
        self._idle: list[_Exchange] = []

    async def __aenter__(self) -> Self:
        reserved = MAX_LOOKUPS + OTHER_DESCRIPTORS
        available = _allow_descriptors(self._max_connections + reserved)
        connections = min(self._max_connections, max(available - reserved, available // 2))
        self._authorities = os.environ.get("SSL_CERT_FILE") or certifi.where()
        self._multi = pycurl.AsyncCurlMulti()
        self._multi.setopt(pycurl.M_PIPELINING, 2)  # HTTP/2 multiplexing
        self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, MAX_CONNECTIONS_PER_ORIGIN)
        self._multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, connections)
        self._multi.setopt(pycurl.M_MAXCONNECTS, connections)
        return self

    async def __aexit__(self, *_exception: object) -> None:
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
        error = ""
        try:
            await exchange.run(self._multi)
        except pycurl.error as failure:
            error = str(failure.args[-1])
        except BaseException:  # cancellation, or the transport was closed
            exchange.curl.close()
            raise
        response = exchange.response(error)
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
            pycurl.HEADERFUNCTION: self._on_header,
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
        self._status = 0
        self._has_headers = False
        self._retry_after: str | None = None
        self._body = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self.curl.setopt(pycurl.URL, url)
        # Wait for a connection that may turn out to be HTTP/2, instead of opening one more.
        self.curl.setopt(pycurl.PIPEWAIT, origin.scheme == "https")
        if headers != self._headers:  # else libcurl still has them
            self.curl.setopt(pycurl.HTTPHEADER, headers)
            self._headers = headers
        self.curl.setopt(pycurl.POSTFIELDS, body)
        if addresses is not None:  # instead of libcurl's own look-up
            self.curl.setopt(pycurl.RESOLVE, [f"+{origin.host}:{origin.port}:{','.join(addresses)}"])

    async def run(self, multi: pycurl.AsyncCurlMulti) -> None:
        """Send the request, and receive the response or the beginning of it."""
        self._done = multi.add_handle(self.curl)
        try:
            await self._done
        finally:
            if self._timer:
                self._timer.cancel()

    def response(self, error: str) -> Response:
        """Return the response that was received. Its status counts, whatever became of the body."""
        if self._has_headers:
            return Response(self._status, self._retry_after, bytes(self._body))
        return Response(0, error=self.refused or error)

    def _open_socket(self, _purpose: int, address: Any) -> socket.socket | int:
        host: str = address.addr[0]
        if self._only_public and not is_public_address(ip_address(host.partition("%")[0])):
            self.refused = f"{host} is no public address"
            return SOCKET_BAD
        return _Socket(address.family, address.socktype, address.protocol)

    def _on_header(self, line: bytes) -> None:
        if self._has_headers:
            return  # a trailer
        if line.startswith(b"HTTP/"):  # also each informational response has a status line
            self._status = int(line.split(None, 2)[1])
        elif line[:12].lower() == b"retry-after:":
            self._retry_after = line[12:].decode("latin-1").strip()
        elif not line.strip() and self._status >= 200:
            self._has_headers = True
            self._timer = self._done.get_loop().call_later(BODY_TIMEOUT, self._end)

    def _on_body(self, data: bytes) -> int | None:
        self._body += data[: MAX_BODY_BYTES - len(self._body)]
        return None if len(self._body) < MAX_BODY_BYTES else -1  # -1 ends the transfer

    def _end(self) -> None:
        if not self._done.done():
            self._done.set_result(self.curl)  # which removes the handle


class _Socket(socket.socket):
    """A socket that libcurl duplicates; this one is closed with its last reference."""

    def __del__(self) -> None:
        self.close()


def _allow_descriptors(wanted: int) -> int:
    """Raise this process's limit of file descriptors to `wanted` if possible, and return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft
