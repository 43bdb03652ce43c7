"""Other senders: each prints its number of messages, seconds and CPU seconds."""

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pycurl
import requests
from py_vapid import Vapid02
from pywebpush import webpush, webpush_async

from pushapp.webpush.encryption import encrypt

PAYLOAD = json.dumps({"web_push": 8030, "notification": {"title": "Hello", "body": "x" * 200}}).ljust(512)
KEY = os.environ["FLASK_PUSH_VAPID_PRIVATE_KEY"]
CLAIMS = {"sub": "mailto:webmaster@site.org"}
CONCURRENCY = 64
HEADERS = {"TTL": "86400", "Content-Encoding": "aes128gcm", "Expect": ""}


def bare_loop(subscriptions: list[dict[str, Any]]) -> None:
    """Encrypt and post with libcurl over one HTTP/2 connection, with one token: nothing else."""
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(subscriptions[0]["endpoint"]))
    token = Vapid02.from_raw(KEY.encode()).sign(CLAIMS | {"aud": origin, "exp": int(time.time()) + 43_200})
    headers = [f"{name}: {value}" for name, value in (HEADERS | token).items()]
    pending = iter(subscriptions)

    def open_socket(_purpose: int, address: Any) -> socket.socket:
        ip_address(address.addr[0])
        return socket.socket(address.family, address.socktype, address.protocol)

    async def post(multi: pycurl.AsyncCurlMulti) -> None:
        curl = pycurl.Curl()
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.CAINFO, os.environ["SSL_CERT_FILE"])
        curl.setopt(pycurl.HTTPHEADER, headers)
        curl.setopt(pycurl.PIPEWAIT, 1)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, open_socket)
        curl.setopt(pycurl.HEADERFUNCTION, lambda line: None)
        curl.setopt(pycurl.WRITEFUNCTION, lambda data: None)
        for subscription in pending:
            keys = subscription["keys"]
            curl.setopt(pycurl.URL, subscription["endpoint"])
            curl.setopt(pycurl.POSTFIELDS, encrypt(PAYLOAD.encode(), keys["p256dh"], keys["auth"]))
            await multi.add_handle(curl)
            assert curl.getinfo(pycurl.RESPONSE_CODE) == 201

    async def run() -> None:
        multi = pycurl.AsyncCurlMulti()
        multi.setopt(pycurl.M_PIPELINING, 2)
        await asyncio.gather(*(post(multi) for _ in range(CONCURRENCY)))
        await multi.aclose()

    asyncio.run(run())


def pywebpush(subscriptions: list[dict[str, Any]]) -> None:
    """Call pywebpush for each, with a reused session."""
    with requests.Session() as session:
        session.verify = os.environ["SSL_CERT_FILE"]
        for subscription in subscriptions:
            webpush(
                subscription,
                PAYLOAD,
                vapid_private_key=KEY,
                vapid_claims=dict(CLAIMS),
                requests_session=session,
            )


def pywebpush_async(subscriptions: list[dict[str, Any]]) -> None:
    """Call pywebpush's coroutine for each, with a reused session."""
    pending = iter(subscriptions)

    async def post(session: aiohttp.ClientSession) -> None:
        for subscription in pending:
            claims: dict[str, Any] = dict(CLAIMS)
            await webpush_async(
                subscription, PAYLOAD, vapid_private_key=KEY, vapid_claims=claims, aiohttp_session=session
            )

    async def run() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:
            await asyncio.gather(*(post(session) for _ in range(CONCURRENCY)))

    asyncio.run(run())


SENDERS: dict[str, Callable[[list[dict[str, Any]]], None]] = {
    "bare loop": bare_loop,
    "pywebpush": pywebpush,
    "pywebpush async": pywebpush_async,
}

if __name__ == "__main__":
    name, path = sys.argv[1:]
    subscriptions = json.loads(Path(path).read_text())
    if name == "pywebpush":
        subscriptions = subscriptions[: len(subscriptions) // 4]  # it is slow
    started_at, cpu = time.perf_counter(), time.process_time()
    SENDERS[name](subscriptions)
    print(len(subscriptions), time.perf_counter() - started_at, time.process_time() - cpu)
