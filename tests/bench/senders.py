"""Other ways to send: each prints how many, in how many seconds, with how many CPU seconds."""

import asyncio
import json
import os
import sys
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import http_ece
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from py_vapid import Vapid02
from pywebpush import webpush, webpush_async

PAYLOAD = json.dumps({"web_push": 8030, "notification": {"title": "Hello", "body": "x" * 200}}).ljust(512)
KEY = os.environ["FLASK_PUSH_VAPID_PRIVATE_KEY"]
CLAIMS = {"sub": "mailto:webmaster@site.org"}
CONNECTIONS = 64


def limit(subscriptions: list[dict[str, Any]]) -> None:
    """Encrypt and post over kept connections, with one token: nothing else."""
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(subscriptions[0]["endpoint"]))
    token = Vapid02.from_raw(KEY.encode()).sign(CLAIMS | {"aud": origin, "exp": int(time.time()) + 43_200})
    headers = {"TTL": "86400", "Content-Encoding": "aes128gcm"} | token
    waiting = iter(subscriptions)

    async def post(session: aiohttp.ClientSession) -> None:
        for one in waiting:
            body = http_ece.encrypt(
                PAYLOAD.encode(),
                salt=os.urandom(16),
                private_key=ec.generate_private_key(ec.SECP256R1()),
                dh=urlsafe_b64decode(one["keys"]["p256dh"] + "="),
                auth_secret=urlsafe_b64decode(one["keys"]["auth"] + "=="),
                version="aes128gcm",
            )
            async with session.post(one["endpoint"], data=body, headers=headers) as response:
                assert response.status == 201

    async def run() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:
            await asyncio.gather(*(post(session) for _ in range(CONNECTIONS)))

    asyncio.run(run())


def pywebpush(subscriptions: list[dict[str, Any]]) -> None:
    """Call pywebpush for each, with a kept session."""
    with requests.Session() as session:
        session.verify = os.environ["SSL_CERT_FILE"]
        for one in subscriptions:
            webpush(one, PAYLOAD, vapid_private_key=KEY, vapid_claims=dict(CLAIMS), requests_session=session)


def pywebpush_async(subscriptions: list[dict[str, Any]]) -> None:
    """Call pywebpush's coroutine for each, on one session."""
    waiting = iter(subscriptions)

    async def post(session: aiohttp.ClientSession) -> None:
        for one in waiting:
            claims: dict[str, Any] = dict(CLAIMS)
            await webpush_async(
                one, PAYLOAD, vapid_private_key=KEY, vapid_claims=claims, aiohttp_session=session
            )

    async def run() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:
            await asyncio.gather(*(post(session) for _ in range(CONNECTIONS)))

    asyncio.run(run())


WAYS: dict[str, Callable[[list[dict[str, Any]]], None]] = {
    "limit": limit,
    "pywebpush": pywebpush,
    "pywebpush async": pywebpush_async,
}

if __name__ == "__main__":
    way, path = sys.argv[1:]
    found = json.loads(Path(path).read_text())
    if way == "pywebpush":
        found = found[: len(found) // 4]  # it takes long
    began, cpu = time.perf_counter(), time.process_time()
    WAYS[way](found)
    print(len(found), time.perf_counter() - began, time.process_time() - cpu)
