"""Protection against SSRF and DNS rebinding: no connections to private addresses."""

import asyncio
import socket
import time
from functools import partial

import aiohttp
import pytest

from pushapp.webpush.client import TOTAL_TIMEOUT, Client
from pushapp.webpush.responses import Outcome
from pushapp.webpush.vapid import Signer
from tests.support.delivery import KEY_PAIR, SUBJECT, Resolver, deliver, push, results
from tests.support.push_server import PushServer


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1"]
)
def test_a_name_that_resolves_to_a_private_address_is_not_connected_to(
    push_server: PushServer, address: str
) -> None:
    subscription = push_server.subscription()
    subscription["endpoint"] = f"https://push.example.net:{push_server.server_port}/wpush/x"
    assert results(deliver(None, [subscription], resolver=Resolver(address))) == ["retry"]
    assert push_server.requests == 0


def test_dns_rebinding_does_not_reach_a_private_address(push_server: PushServer) -> None:
    subscription = push_server.subscription()
    subscription["endpoint"] = f"https://push.example.net:{push_server.server_port}/wpush/x"
    resolver = Resolver("192.0.2.1", "127.0.0.1")
    deliver(None, [subscription], resolver=resolver, rounds=2)
    assert push_server.requests == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "2130706433", "0x7f.1", "localhost", "10.0.0.1"])
def test_a_stored_endpoint_with_a_private_address_is_not_connected_to(
    push_server: PushServer, host: str
) -> None:
    subscription = push_server.subscription()
    subscription["endpoint"] = f"http://{host}:{push_server.server_port}/wpush/x"
    assert results(deliver(None, [subscription])) == ["failed"]
    assert push_server.requests == 0


def test_a_trusted_name_may_resolve_to_a_private_address(push_server: PushServer) -> None:
    subscription = push_server.subscription()
    path = subscription["endpoint"].removeprefix(push_server.origin)
    push_server.origin = f"http://push.internal:{push_server.server_port}"
    subscription["endpoint"] = push_server.origin + path
    assert results(deliver(push_server, [subscription], resolver=Resolver("127.0.0.1"))) == ["sent"]


def test_unresponsive_name_servers_occupy_no_threads(
    push_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    unresponsive = socket.socket(type=socket.SOCK_DGRAM)
    unresponsive.bind(("127.0.0.1", 0))
    unresponsive.settimeout(1)
    name_server = f"127.0.0.1:{unresponsive.getsockname()[1]}"
    monkeypatch.setattr(aiohttp, "AsyncResolver", partial(aiohttp.AsyncResolver, nameservers=[name_server]))
    keys = push_server.subscription()["keys"]
    unavailable = [{"endpoint": f"https://{number}.example.net/x", "keys": keys} for number in range(100)]

    async def thread_is_free() -> float:
        began = time.monotonic()
        await asyncio.sleep(1)
        await asyncio.to_thread(int)
        return time.monotonic() - began

    async def run() -> tuple[list[Outcome], float]:
        async with Client(Signer(KEY_PAIR, SUBJECT).authorization, [push_server.origin]) as delivery:
            sending = push(delivery, [*unavailable, push_server.subscription()])
            return await asyncio.gather(sending, thread_is_free())

    with unresponsive:
        began = time.monotonic()
        outcomes, seconds = asyncio.run(run())
        assert results(outcomes) == ["retry"] * 100 + ["sent"]
        assert unresponsive.recv(1_000)
    assert seconds < 8
    assert time.monotonic() - began < 2 * TOTAL_TIMEOUT
