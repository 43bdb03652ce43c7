"""Connections to push services: HTTP/2, TLS, proxies, time-outs, limits, and nothing left behind."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from pushapp.webpush.client import Client
from pushapp.webpush.responses import Counted, Outcome
from tests.support.delivery import Resolver, push, results
from tests.support.deployment import NGINX, ROOT
from tests.support.push_server import PushServer
from tests.support.tls import NAME, Proxy, RawServer, self_signed, tls_push_service
from tests.support.waiting import wait_until

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
LOOPBACK = Resolver("127.0.0.1")
KEYS = {"p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
        "auth": "BTBZMqHH6r4Tts7J_aSIgg"}  # fmt: skip


def subscription(endpoint: str) -> dict[str, Any]:
    return {"endpoint": endpoint, "keys": KEYS}


def client(*trusted: str, resolve: Any = LOOPBACK, **settings: Any) -> Client:
    return Client(lambda origin, vapid_key: "vapid t=x, k=y", trusted, resolve=resolve, **settings)


def push_to(endpoints: list[str], *, trusted: list[str], rounds: int = 1, **settings: Any) -> list[Outcome]:
    async def run() -> list[Outcome]:
        async with client(*trusted, **settings) as delivery:
            return [
                outcome
                for _ in range(rounds)
                for outcome in await push(delivery, map(subscription, endpoints))
            ]

    return asyncio.run(run())


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate for NAME that clients trust."""
    path = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


@pytest.fixture
def raw_server() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def start(response: bytes = b"") -> RawServer:
        servers.append(RawServer(response))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@needs_nginx
def test_many_messages_share_one_http2_connection(tmp_path: Path, certificate: Path) -> None:
    with tls_push_service(tmp_path, certificate) as service:
        endpoints = [f"{service.origin}/{number}" for number in range(60)]
        outcomes = push_to(endpoints, trusted=[service.origin], rounds=2)
        assert results(outcomes) == ["sent"] * 120
        assert all(outcome.is_multiplexed for outcome in outcomes)
        requests = service.requests()
    assert {request.protocol for request in requests} == {"HTTP/2.0"}
    assert len({request.connection for request in requests}) == 1


@needs_nginx
def test_http_1_1_is_spoken_where_there_is_no_http2(tmp_path: Path, certificate: Path) -> None:
    with tls_push_service(tmp_path, certificate, http2=False) as service:
        endpoints = [f"{service.origin}/{number}" for number in range(20)]
        outcomes = push_to(endpoints, trusted=[service.origin], rounds=2)
        assert results(outcomes) == ["sent"] * 40
        assert not any(outcome.is_multiplexed for outcome in outcomes)
        requests = service.requests()
    assert {request.protocol for request in requests} == {"HTTP/1.1"}
    assert len({request.connection for request in requests}) <= 20  # reused in the second round


@needs_nginx
@pytest.mark.parametrize(("http2", "limit", "sent"), [(True, 20, 100), (True, 7, 7), (False, 7, 100)])
def test_a_push_service_that_closes_connections_gets_no_message_twice(
    tmp_path: Path, certificate: Path, http2: bool, limit: int, sent: int
) -> None:
    with tls_push_service(
        tmp_path, certificate, http2=http2, options=f"keepalive_requests {limit};"
    ) as service:
        paths = [f"/{number}" for number in range(100)]
        outcomes = results(push_to([service.origin + path for path in paths], trusted=[service.origin]))
        requests = service.requests()
    # libcurl repeats a request that was refused, some times; then the message is still to be sent.
    assert outcomes.count("sent") >= sent
    received = Counter(request.path for request in requests)
    assert received == {path: 1 for path, result in zip(paths, outcomes, strict=True) if result == "sent"}
    assert len({request.connection for request in requests}) > 1


@needs_nginx
@pytest.mark.parametrize("kind", ["self-signed", "another name", "expired"])
def test_an_invalid_certificate_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    name = "another.example.net" if kind == "another name" else NAME
    path = self_signed(tmp_path, name, days=-0.5 if kind == "expired" else 1)
    if kind != "self-signed":
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with tls_push_service(tmp_path, path) as service:
        (outcome,) = push_to([f"{service.origin}/x"], trusted=[service.origin])
        assert service.requests() == []
    assert (outcome.result.value, outcome.counts_against) == ("retry", Counted.PUSH_SERVICE)
    assert "certificate" in outcome.reason


@needs_nginx
@pytest.mark.parametrize("host", [f"{NAME}.", NAME.upper() + "."])
def test_a_connection_to_a_trusted_address_is_reused_by_no_other_endpoint(
    tmp_path: Path, certificate: Path, host: str
) -> None:
    with tls_push_service(tmp_path, certificate) as service:
        other = f"https://{host}:{service.port}/untrusted"

        async def run() -> list[Outcome]:
            async with client(service.origin) as delivery:
                endpoints = [f"{service.origin}/trusted", other, f"{service.origin}/trusted"]
                return [(await push(delivery, [subscription(endpoint)]))[0] for endpoint in endpoints]

        assert results(asyncio.run(run())) == ["sent", "retry", "sent"]
        wait_until(lambda: len(service.requests()) >= 2)  # nginx writes its log after the response
        assert [request.path for request in service.requests()] == ["/trusted"] * 2


BODIES = {
    "cut": b"HTTP/1.1 %s\r\nContent-Length: 100\r\nConnection: close\r\n\r\nbeginning",
    "hanging": b"HTTP/1.1 %s\r\nContent-Length: 100\r\n\r\nbeginning",
    "missing": b"HTTP/1.1 %s\r\nContent-Length: 100\r\n\r\n",
    "chunked": b"HTTP/1.1 %s\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n",
    "invalid": b"HTTP/1.1 %s\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(("status", "result"), [(b"201 Created", "sent"), (b"410 Gone", "gone")])
def test_the_status_counts_whatever_becomes_of_the_body(
    raw_server: Callable[..., RawServer], body: str, status: bytes, result: str
) -> None:
    server = raw_server(BODIES[body] % status)
    began = time.monotonic()
    assert results(push_to([f"{server.origin}/x"], trusted=[server.origin])) == [result]
    assert time.monotonic() - began < 5
    assert len(server.heads) == 1


def test_an_informational_response_is_not_the_response(raw_server: Callable[..., RawServer]) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\n\r\n"
    server = raw_server(early + b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")
    (outcome,) = push_to([f"{server.origin}/x"], trusted=[server.origin])
    assert (outcome.status, outcome.retry_after) == (503, 7)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (b"0", 0),
        (b" 7 ", 7),
        (b"999999999", 3_600),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (b"Fri, 31 Dec 2100 23:59:59 GMT", 3_600),
        (b"", 0),
        (b"soon", 0),
        (b"-1", 0),
        (b"9" * 500, 0),
        (b"Fri, 99 Foo 2026", 0),
        (b"\xd9\xa1", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(
    raw_server: Callable[..., RawServer], header: bytes, seconds: float
) -> None:
    server = raw_server(b"HTTP/1.1 503 Busy\r\nretry-after:%s\r\nContent-Length: 0\r\n\r\n" % header)
    (outcome,) = push_to([f"{server.origin}/x"], trusted=[server.origin])
    assert (outcome.status, outcome.retry_after) == (503, seconds)


def test_retry_after_is_a_date_soon(push_server: PushServer) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    push_server.responses["/x"] = 503, {"Retry-After": date}, b""
    (outcome,) = push_to([f"{push_server.origin}/x"], trusted=[push_server.origin])
    assert 90 < outcome.retry_after <= 100


def test_a_delay_is_of_one_response_only(push_server: PushServer) -> None:
    push_server.transient_responses["/x"] = [(503, {"Retry-After": "7"}, b""), (503, {}, b"")]
    outcomes = push_to([f"{push_server.origin}/x"], trusted=[push_server.origin], rounds=2)
    assert [outcome.retry_after for outcome in outcomes] == [7, 0]


def test_a_response_that_never_comes_costs_the_time_out(
    raw_server: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.webpush.transport.TOTAL_TIMEOUT", 0.5)
    for response in (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 201 Created\r\nX"):
        server = raw_server(response)
        (outcome,) = push_to([f"{server.origin}/x"], trusted=[server.origin])
        assert (outcome.result.value, outcome.status) == ("retry", 0)
        assert "timed out" in outcome.reason


def test_the_request_holds_what_the_protocol_asks_for_and_no_more(
    raw_server: Callable[..., RawServer],
) -> None:
    server = raw_server(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    target = "/a/../b/./%7E//x;y?token=a%2bb{|}<>\"'`^\\&a=../.."
    push_to([server.origin + target], trusted=[server.origin])
    line, *headers = server.heads[0].decode().split("\r\n")
    assert line == f"POST {target} HTTP/1.1"
    names = sorted(header.partition(":")[0].lower() for header in headers)
    assert names == [
        "authorization", "content-encoding", "content-length", "content-type", "host", "topic", "ttl", "urgency",
    ]  # fmt: skip


def test_no_redirects_cookies_netrc_or_proxies_of_the_environment(
    raw_server: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy = Proxy()
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login name password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    response = b"HTTP/1.1 302 Found\r\nLocation: /y\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    server = raw_server(response)
    assert results(push_to([f"{server.origin}/x"], trusted=[server.origin], rounds=2)) == ["failed"] * 2
    assert len(server.heads) == 2
    assert all(b"cookie" not in head.lower() and b"vapid" in head for head in server.heads)
    assert proxy.targets == []
    proxy.close()


@pytest.fixture(params=["http", "socks5h"])
def proxy(request: pytest.FixtureRequest) -> Iterator[tuple[Proxy, str]]:
    proxy = Proxy()
    yield proxy, f"{request.param}://127.0.0.1:{proxy.port}"
    proxy.close()


def no_lookup(name: str, port: int) -> list[str]:
    raise AssertionError(name)


@needs_nginx
def test_a_proxy_looks_up_names_and_checks_addresses(
    tmp_path: Path, certificate: Path, proxy: tuple[Proxy, str]
) -> None:
    server, url = proxy
    with tls_push_service(tmp_path, certificate) as service:
        outcomes = push_to([f"{service.origin}/x"], trusted=[], rounds=2, proxy=url, resolve=no_lookup)
        outcomes += push_to([f"{service.origin}/x"], trusted=[service.origin], proxy=url, resolve=no_lookup)
        assert {request.protocol for request in service.requests()} == {"HTTP/2.0"}
    assert results(outcomes) == ["sent"] * 3
    assert server.targets == [f"{NAME}:{service.port}"] * 2


@pytest.mark.parametrize(
    "response", [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"\0"]
)
def test_a_response_of_a_proxy_is_none_of_the_push_service(response: bytes) -> None:
    proxy = Proxy(response)
    url = f"http://127.0.0.1:{proxy.port}"
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    (outcome,) = push_to([f"https://{NAME}:{port}/x"], trusted=[], proxy=url, resolve=no_lookup)
    assert (outcome.result.value, outcome.status) == ("retry", 0)
    assert outcome.counts_against is Counted.PUSH_SERVICE
    proxy.close()


def test_an_unavailable_proxy_is_no_subscription_error() -> None:
    (outcome,) = push_to([f"https://{NAME}/x"], trusted=[], proxy="http://127.0.0.1:1", resolve=no_lookup)
    assert (outcome.result.value, outcome.counts_against) == ("retry", Counted.PUSH_SERVICE)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


def test_a_cancelled_push_leaves_nothing_behind(
    push_server: PushServer, raw_server: Callable[..., RawServer]
) -> None:
    silent = raw_server()

    async def run() -> list[Outcome]:
        async with client(silent.origin, push_server.origin) as delivery:
            sending = asyncio.create_task(push(delivery, [subscription(f"{silent.origin}/x")] * 5))
            await asyncio.to_thread(wait_until, lambda: len(silent.heads) == 5)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert await asyncio.to_thread(silent.closed.wait, 5)
            assert delivery._transport._multi.futures() == ()
            return await push(delivery, [subscription(f"{push_server.origin}/x")] * 5)

    before = descriptors()
    assert results(asyncio.run(run())) == ["sent"] * 5
    assert descriptors() <= before + 5  # the server's ends may still be open


def test_closing_the_client_ends_messages_in_flight(raw_server: Callable[..., RawServer]) -> None:
    silent = raw_server()

    async def run() -> None:
        async with client(silent.origin) as delivery:
            sending = [
                asyncio.create_task(push(delivery, [subscription(f"{silent.origin}/x")])) for _ in range(5)
            ]
            await asyncio.to_thread(wait_until, lambda: len(silent.heads) == 5)
        assert all(isinstance(each, asyncio.CancelledError)
                   for each in await asyncio.gather(*sending, return_exceptions=True))  # fmt: skip

    began = time.monotonic()
    asyncio.run(run())
    assert silent.closed.wait(5)
    assert time.monotonic() - began < 5


def test_messages_in_flight_to_one_push_service_delay_no_other(push_server: PushServer) -> None:
    slow = PushServer()
    slow.before_response = lambda: time.sleep(5)

    async def run() -> float:
        async with client(slow.origin, push_server.origin) as delivery:
            others = [subscription(f"{slow.origin}/{number}") for number in range(256)]
            waiting = asyncio.create_task(push(delivery, others))
            await asyncio.sleep(0.5)
            began = time.monotonic()
            await push(delivery, [subscription(f"{push_server.origin}/{number}") for number in range(200)])
            seconds = time.monotonic() - began
            assert set(results(await waiting)) == {"sent"}
            return seconds

    assert asyncio.run(run()) < 4
    slow.close()


def test_idle_connections_make_place_for_others(push_server: PushServer) -> None:
    origins = [f"http://push{number}.example.net:{push_server.server_port}" for number in range(40)]
    outcomes = push_to([f"{origin}/x" for origin in origins], trusted=origins, rounds=2, max_connections=4)
    assert results(outcomes) == ["sent"] * 80


def test_one_push_service_does_not_get_all_connections(push_server: PushServer) -> None:
    push_server.before_response = lambda: time.sleep(0.1)
    endpoints = [f"{push_server.origin}/{number}" for number in range(40)]
    assert results(push_to(endpoints, trusted=[push_server.origin], max_connections=8)) == ["sent"] * 40
    assert push_server.connections == 6


LIMITED = """
import asyncio, os, resource, sys
from tests.webpush.test_transport import push_to, results
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[2])))
origins = [f"http://push{number}.example.net:{sys.argv[1]}" for number in range(100)]
found = results(push_to([f"{origin}/x" for origin in origins], trusted=origins, rounds=2))
print(sorted(set(found)), len(found), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("hard", "soft"), [(64, 64), (4096, 4096)])
def test_more_push_services_than_file_descriptors_are_served(
    push_server: PushServer, hard: int, soft: int
) -> None:
    command = [sys.executable, "-c", LIMITED, str(push_server.server_port), str(hard)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"['sent'] 200 {soft}\n", done.stderr


def test_a_thousand_waiting_messages_time_out_together(
    raw_server: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.webpush.transport.TOTAL_TIMEOUT", 1)
    silent = raw_server()
    began = time.monotonic()
    outcomes = push_to([f"{silent.origin}/x"] * 100, trusted=[silent.origin], max_connections=3)
    assert results(outcomes) == ["retry"] * 100
    assert time.monotonic() - began < 5
    assert len(silent.heads) <= 6


def test_observers_see_each_push(push_server: PushServer) -> None:
    seen: list[tuple[str, Outcome, float]] = []
    push_server.responses["/x"] = 503, {}, b""
    push_to(
        [f"{push_server.origin}/x"], trusted=[push_server.origin], observe=lambda *values: seen.append(values)
    )
    ((origin, outcome, seconds),) = seen
    assert (origin, outcome.status) == (push_server.origin, 503)
    assert 0 < seconds < 5
