"""Protection against SSRF and DNS rebinding, and name servers that do not respond."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pushapp.webpush.client import Client
from pushapp.webpush.responses import Counted, Outcome
from pushapp.webpush.vapid import Signers
from tests.support.delivery import KEY_PAIR, SUBJECT, Resolver, deliver, push, results
from tests.support.deployment import ROOT
from tests.support.push_server import PushServer

PRIVATE_ADDRESSES = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254",
    "192.0.2.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1",
]  # fmt: skip


def named(push_server: PushServer, name: str = "push.internal") -> dict[str, Any]:
    """Return a subscription at a trusted name."""
    subscription = push_server.subscription()
    path = subscription["endpoint"].removeprefix(push_server.origin)
    push_server.origin = f"http://{name}:{push_server.server_port}"
    return subscription | {"endpoint": push_server.origin + path}


@pytest.mark.parametrize("address", PRIVATE_ADDRESSES)
def test_a_name_that_resolves_to_a_private_address_is_not_connected_to(
    push_server: PushServer, address: str
) -> None:
    subscription = push_server.subscription()
    subscription["endpoint"] = f"https://push.example.net:{push_server.server_port}/wpush/x"
    (outcome,) = deliver(None, [subscription], resolver=Resolver(address))
    assert (outcome.result.value, outcome.counts_against) == ("retry", Counted.PUSH_SERVICE)
    assert "no public address" in outcome.reason
    assert push_server.connections == push_server.requests == 0


def test_no_address_of_a_name_is_connected_to_unless_it_is_public(push_server: PushServer) -> None:
    subscription = push_server.subscription()
    subscription["endpoint"] = f"https://push.example.net:{push_server.server_port}/wpush/x"
    outcomes = deliver(None, [subscription], resolver=lambda name, port: ["10.0.0.1", "::1", "127.0.0.1"])
    assert results(outcomes) == ["retry"]
    assert push_server.connections == 0


def test_dns_rebinding_does_not_reach_a_private_address(
    push_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.webpush.resolver.LOOKUP_REUSE", 0)
    subscription = push_server.subscription()
    subscription["endpoint"] = f"https://push.example.net:{push_server.server_port}/wpush/x"
    resolver = Resolver("192.0.2.1", "127.0.0.1")
    deliver(None, [subscription], resolver=resolver, rounds=3)
    assert resolver.addresses == ["127.0.0.1"]
    assert push_server.connections == push_server.requests == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "2130706433", "0x7f.1", "localhost", "10.0.0.1"])
def test_a_stored_endpoint_with_a_private_address_is_not_connected_to(
    push_server: PushServer, host: str
) -> None:
    subscription = push_server.subscription()
    for scheme in ("http", "https"):
        subscription["endpoint"] = f"{scheme}://{host}:{push_server.server_port}/wpush/x"
        assert results(deliver(None, [subscription])) == ["failed"]
    assert push_server.connections == 0


def test_a_trusted_name_may_resolve_to_a_private_address(push_server: PushServer) -> None:
    subscription = named(push_server)
    assert results(deliver(push_server, [subscription], resolver=Resolver("127.0.0.1"))) == ["sent"]


def test_only_the_trusted_port_may_be_at_a_private_address(push_server: PushServer) -> None:
    subscription = push_server.subscription()
    subscription["endpoint"] = f"https://push.example.net:{push_server.server_port}/wpush/x"
    push_server.origin = "https://push.example.net"  # port 443
    assert results(deliver(push_server, [subscription], resolver=Resolver("127.0.0.1"))) == ["retry"]
    assert push_server.connections == 0


def test_the_next_address_is_tried_when_one_does_not_accept(push_server: PushServer) -> None:
    subscription = named(push_server)
    outcomes = deliver(push_server, [subscription], resolver=lambda name, port: ["::1", "127.0.0.1"])
    assert results(outcomes) == ["sent"]


@pytest.mark.parametrize("error", [OSError("no such name"), UnicodeError("label too long")])
def test_a_failed_look_up_is_retried(push_server: PushServer, error: Exception) -> None:
    def fail(name: str, port: int) -> list[str]:
        raise error

    subscription = push_server.subscription()
    subscription["endpoint"] = "https://push.example.net/wpush/x"
    (outcome,) = deliver(None, [subscription], resolver=fail)
    assert (outcome.result.value, outcome.counts_against) == ("retry", Counted.PUSH_SERVICE)
    assert str(error) in outcome.reason


@pytest.fixture
def hang() -> Iterator[Callable[[], object]]:
    """A name server that does not respond before the end of the test."""
    end_of_test = threading.Event()
    yield lambda: end_of_test.wait(60)
    end_of_test.set()


def client(resolve: Callable[[str, int], list[str]], *trusted: str) -> Client:
    return Client(Signers([KEY_PAIR], SUBJECT).authorization, trusted, resolve=resolve)


def test_unresponsive_name_servers_delay_only_their_own_messages(
    push_server: PushServer, hang: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.webpush.transport.CONNECT_TIMEOUT", 2)

    def resolve(name: str, port: int) -> list[str]:
        if name != "push.internal":
            hang()
        return ["127.0.0.1"]

    available = named(push_server)
    keys = available["keys"]
    unavailable = [{"endpoint": f"https://{number}.example.net/x", "keys": keys} for number in range(240)]

    async def run() -> tuple[list[Outcome], float]:
        async with client(resolve, push_server.origin) as delivery:
            sending = asyncio.create_task(push(delivery, unavailable))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            assert results(await push(delivery, [available])) == ["sent"]
            await asyncio.to_thread(int)
            seconds = time.monotonic() - began
            return await sending, seconds

    began = time.monotonic()
    outcomes, seconds = asyncio.run(run())
    assert results(outcomes) == ["retry"] * 240
    assert all("timed out" in outcome.reason for outcome in outcomes)
    assert seconds < 1
    assert time.monotonic() - began < 8  # closing waits for no thread


def test_messages_to_one_name_share_a_look_up_and_threads_are_bounded(
    push_server: PushServer, hang: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.webpush.transport.CONNECT_TIMEOUT", 0.5)
    monkeypatch.setattr("pushapp.webpush.resolver.MAX_LOOKUPS", 3)
    looked_up: list[str] = []

    def resolve(name: str, port: int) -> list[str]:
        looked_up.append(name)
        hang()
        return []

    keys = push_server.subscription()["keys"]
    names = ["one", "one", "two", "three", "four", "five", "one"]

    async def run() -> list[Outcome]:
        async with client(resolve) as delivery:
            endpoints = (f"https://{name}.example.net/x" for name in names)
            return await push(delivery, [{"endpoint": endpoint, "keys": keys} for endpoint in endpoints])

    outcomes = asyncio.run(run())
    assert sorted(looked_up) == ["one.example.net", "three.example.net", "two.example.net"]
    assert ["timed out" in outcome.reason for outcome in outcomes] == [True] * 4 + [False] * 2 + [True]
    assert set(results(outcomes)) == {"retry"}


def test_known_addresses_are_used_while_name_servers_do_not_respond(
    push_server: PushServer, hang: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.webpush.resolver.LOOKUP_REUSE", 0)
    calls: list[str] = []

    def resolve(name: str, port: int) -> list[str]:
        calls.append(name)
        if len(calls) > 1:
            hang()
        return ["127.0.0.1"]

    subscription = named(push_server)
    assert results(deliver(push_server, [subscription], resolver=resolve, rounds=5)) == ["sent"] * 5
    assert calls == ["push.internal"] * 2


def test_an_old_address_is_replaced(push_server: PushServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushapp.webpush.resolver.LOOKUP_REUSE", 0)
    resolver = Resolver("127.0.0.1", "127.0.0.2")
    subscription = named(push_server)

    async def run() -> list[str]:
        async with client(resolver, push_server.origin) as delivery:
            await push(delivery, [subscription])
            await push(delivery, [subscription])
            while resolver.addresses != ["127.0.0.2"]:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            resolver_of_client = delivery._transport._resolver
            return list(await resolver_of_client.addresses("push.internal", push_server.server_port, 1))

    assert asyncio.run(run()) == ["127.0.0.2"]


def test_names_are_looked_up_in_the_hosts_file(push_server: PushServer) -> None:
    subscription = named(push_server, "localhost")
    assert results(deliver(push_server, [subscription])) == ["sent"]


HANGING = """
import time
from tests.webpush.test_transport import push_to, results
import pushapp.webpush.transport
pushapp.webpush.transport.CONNECT_TIMEOUT = 0.1
print(results(push_to(["https://push.example.net/x"], trusted=[], resolve=lambda *_: time.sleep(60))))
"""


def test_the_end_of_a_program_waits_for_no_look_up() -> None:
    command = [sys.executable, "-c", HANGING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.returncode) == ("['retry']\n", 0), done.stderr
