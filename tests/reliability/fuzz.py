"""Fuzzing of the schemas and of the rules for endpoints, by hypothesis, and of all routes, by schemathesis.

    python -m tests.reliability.fuzz [--seconds 600] [--seed N]

What is agreed to is judged again by others' parsers: the host that would be dialled, and its address.
The routes of a running site have as long again. A find belongs into `tests/invalid_input.py`.
"""

import argparse
import ipaddress
import json
import random
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from marshmallow import ValidationError
from yarl import URL

from pushapp import create_app
from pushapp.web.schemas import MessageSchema, SubscriptionSchema, UnsubscribeSchema
from pushapp.webpush.endpoints import check_endpoint, origin_of
from tests.support import invalid_input
from tests.support.openapi import ask, described_site
from tests.support.push_server import PushServer

from .common import KEYS, Verdict

SPECIAL = ("localhost", "local", "internal", "invalid", "onion", "alt", "arpa")
CHARACTERS = "abxyz019.-:@/\\?#[]%_ \t\0é１\ud800\u3002"
HOSTS = st.sampled_from(
    [*invalid_input.REFUSED_HOSTS, "push.example.com", "fcm.googleapis.com", "8.8.8.8", "[2606:4700::1]"]
)
PIECES = st.lists(HOSTS | st.text(CHARACTERS, max_size=6) | st.ip_addresses().map(str), max_size=4).map(
    "".join
)
ENDPOINTS = st.builds("{}{}{}".format, st.sampled_from(["https://", "HTTPS://", "https:/", "https:\\\\"]), PIECES,
                      st.sampled_from(["", "/x", "?x", "#x", "/@127.0.0.1", ":443/", ":0/"]))  # fmt: skip
JSON = st.recursive(
    st.sampled_from(invalid_input.VALUES) | st.text() | st.integers() | st.floats(), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=9), inner, max_size=3), max_leaves=6,
)  # fmt: skip
KEY = st.sampled_from([*KEYS.values(), *invalid_input.NO_KEYS]) | st.text("AB-_+/=é\0", max_size=90) | JSON
BODIES = st.fixed_dictionaries({}, optional={
    "endpoint": ENDPOINTS | JSON, "expirationTime": st.integers(-9, 10**16) | JSON, "more": JSON,
    "keys": st.fixed_dictionaries({}, optional={"p256dh": KEY, "auth": KEY}) | JSON,
}) | JSON  # fmt: skip
MESSAGES = st.fixed_dictionaries({}, optional={
    "to": st.fixed_dictionaries({}, optional={"user_id": JSON, "everyone": JSON}) | JSON,
    "notification": st.fixed_dictionaries({}, optional=dict.fromkeys(("title", "body", "navigate", "icon", "tag", "actions", "data"), JSON | ENDPOINTS)) | JSON,
    "ttl": JSON, "urgency": JSON, "topic": JSON,
}) | JSON  # fmt: skip


def main() -> None:
    """Fuzz until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.fuzz")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="for the same inputs again")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    random.seed(options.seed)
    verdict = Verdict()
    fuzz_schemas(options.seconds, verdict)
    fuzz_routes(options.seconds, verdict)
    verdict.end()


def fuzz_schemas(seconds: float, verdict: Verdict) -> None:
    """Try what hypothesis thinks of on the schemas, the rules for endpoints and the reading of bodies."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(
            {"SQLALCHEMY_DATABASE_URI": "sqlite://", "PUSH_API_TOKENS": ["x"]}, instance_path=folder
        )
        tried: dict[str, int] = {}
        until = time.monotonic() + seconds
        finds: list[str] = []
        while time.monotonic() < until and not finds:
            for check in (endpoint, subscription, message, unread):
                try:
                    tried[check.__name__] = tried.get(check.__name__, 0) + run(check, app)
                except Exception as error:  # whatever it is, it is a find
                    finds.append(f"{check.__name__}: {error!r} {getattr(error, '__notes__', '')}")
    verdict.promise(f"finds in {sum(tried.values()):,} inputs ({tried})", finds or 0, not finds)


def fuzz_routes(seconds: float, verdict: Verdict) -> None:
    """Try what schemathesis thinks of on a running site."""
    push_server = PushServer()
    requests, finds = 0, ""
    with tempfile.TemporaryDirectory() as folder:
        site = described_site(f"sqlite:///{folder}/fuzz.db", Path(folder), push_server.origin)
        site.flask("db", "upgrade")
        until = time.monotonic() + seconds
        with site.gunicorn(stdout=subprocess.DEVNULL):
            while time.monotonic() < until and not finds:
                done = ask(site, push_server.origin, "--seed", str(random.randrange(2**32)))
                requests += int(re.findall(r"(\d+) generated", done.stdout)[0])
                finds = done.stdout if done.returncode else ""
    push_server.close()
    verdict.promise(f"finds in {requests:,} requests to all routes", finds or 0, not finds)


def run(check: Callable[[Flask, Any], None], app: Flask) -> int:
    """Try a batch of inputs; return how many."""
    count = 0
    inputs = {
        "endpoint": ENDPOINTS,
        "subscription": BODIES,
        "message": MESSAGES,
        "unread": st.binary(max_size=200),
    }

    @seed(random.randrange(2**32))
    @settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs[check.__name__])
    def batch(value: Any) -> None:
        nonlocal count
        count += 1
        check(app, value)

    with app.test_request_context():
        batch()
    return count


def endpoint(_app: Flask, text: str) -> None:
    """What is agreed to leads outside, as others read it, and to the host that was checked."""
    refusal = None
    try:
        check_endpoint(text)
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert refusal.startswith("Must "), refusal
        return
    url = URL(text, encoded=True)  # what is dialled
    host = url.raw_host or ""
    assert url.scheme == "https"
    assert url.user is None
    assert origin_of(text).host.strip("[]").rstrip(".") == host.lower().rstrip("."), host
    assert url.port == origin_of(text).port
    assert host.rpartition(".")[2].lower() not in SPECIAL
    try:
        address = ipaddress.ip_address(socket.inet_ntoa(socket.inet_aton(host)))  # as libc reads numbers
    except OSError:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            assert "." in host
            return
    assert address.is_global
    assert not address.is_multicast
    assert str(address) == host.rstrip(".")


def subscription(_app: Flask, body: Any) -> None:
    """A body is a subscription, or is refused; what is taken can be stored."""
    try:
        loaded = SubscriptionSchema().load(body)
        UnsubscribeSchema().load(body)
    except ValidationError as error:
        json.dumps(error.messages)
        return
    assert (len(loaded.p256dh), len(loaded.auth)) == (87, 22)
    assert loaded.endpoint.isascii()
    assert len(loaded.endpoint) <= 2_048
    assert loaded.expires_at is None or 1970 <= loaded.expires_at.year <= 9999


def message(_app: Flask, body: Any) -> None:
    """A body is a message that can be sent, or is refused."""
    try:
        loaded, _ = MessageSchema().load(body)
    except ValidationError as error:
        json.dumps(error.messages)
        return
    assert len(loaded.payload()) <= 3_993


def unread(app: Flask, body: bytes) -> None:
    """Bytes are read as JSON, or refused."""
    client = app.test_client()
    headers = {"Authorization": "Bearer x", "Content-Type": "application/json"}
    response = client.post("/push/messages", data=body, headers=headers)
    assert response.status_code in (400, 422), response.status_code


if __name__ == "__main__":
    main()
