"""Fuzzing of the schemas and the endpoint rules with hypothesis, and of all routes with schemathesis.

    python -m tests.reliability.fuzz [--seconds 600] [--seed N]

Allowed endpoints are checked by other parsers: the host that would be connected to, and its address.
The schemas and the routes of a running site get `seconds` each. A finding belongs in
`tests/support/invalid_input.py`.
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
from pushapp.web.message_schemas import MessageSchema
from pushapp.web.schemas import SubscriptionSchema, UnsubscribeSchema
from pushapp.webpush.endpoints import check_endpoint, origin_of
from tests.reliability.common import KEYS, Report
from tests.support import invalid_input
from tests.support.openapi import openapi_site, run_schemathesis
from tests.support.push_server import PushServer

Check = Callable[[Flask, Any], None]

SPECIAL_USE = ("localhost", "local", "internal", "invalid", "onion", "alt", "arpa")
CHARACTERS = "abxyz019.-:@/\\?#[]%_ \t\0é１\ud800\u3002"
HOSTS = st.sampled_from(
    [*invalid_input.INVALID_HOSTS, "push.example.com", "fcm.googleapis.com", "8.8.8.8", "[2606:4700::1]"]
)
AUTHORITIES = st.lists(HOSTS | st.text(CHARACTERS, max_size=6) | st.ip_addresses().map(str), max_size=4).map(
    "".join
)
ENDPOINTS = st.builds("{}{}{}".format, st.sampled_from(["https://", "HTTPS://", "https:/", "https:\\\\"]), AUTHORITIES,
                      st.sampled_from(["", "/x", "?x", "#x", "/@127.0.0.1", ":443/", ":0/"]))  # fmt: skip
JSON = st.recursive(
    st.sampled_from(invalid_input.VALUES) | st.text() | st.integers() | st.floats(), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=9), inner, max_size=3), max_leaves=6,
)  # fmt: skip
KEY = (
    st.sampled_from([*KEYS.values(), *invalid_input.INVALID_KEYS]) | st.text("AB-_+/=é\0", max_size=90) | JSON
)
SUBSCRIPTIONS = st.fixed_dictionaries({}, optional={
    "endpoint": ENDPOINTS | JSON, "expirationTime": st.integers(-9, 10**16) | JSON, "more": JSON,
    "keys": st.fixed_dictionaries({}, optional={"p256dh": KEY, "auth": KEY}) | JSON,
}) | JSON  # fmt: skip
MESSAGES = st.fixed_dictionaries({}, optional={
    "to": st.fixed_dictionaries({}, optional={"user_id": JSON, "everyone": JSON}) | JSON,
    "notification": st.fixed_dictionaries({}, optional=dict.fromkeys(("title", "body", "navigate", "icon", "tag", "actions", "data"), JSON | ENDPOINTS)) | JSON,
    "ttl": JSON, "urgency": JSON, "topic": JSON,
}) | JSON  # fmt: skip


def main() -> None:
    """Fuzz for a time."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.fuzz")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="to repeat a run's inputs")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    random.seed(options.seed)
    report = Report()
    fuzz_schemas(options.seconds, report)
    fuzz_routes(options.seconds, report)
    report.finish()


def fuzz_schemas(seconds: float, report: Report) -> None:
    """Fuzz the schemas, the endpoint rules and the JSON parser."""
    tried: dict[str, int] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(
            {"SQLALCHEMY_DATABASE_URI": "sqlite://", "PUSH_API_TOKENS": ["x"]}, instance_path=folder
        )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not findings:
            for name, (check, inputs) in CHECKS.items():
                try:
                    tried[name] = tried.get(name, 0) + run(check, inputs, app)
                except Exception as error:  # each is a finding
                    findings.append(f"{name}: {error!r} {getattr(error, '__notes__', '')}")
    report.guarantee(
        f"findings in {sum(tried.values()):,} inputs ({tried})", findings or 0, bool(tried) and not findings
    )


def fuzz_routes(seconds: float, report: Report) -> None:
    """Fuzz all routes of a running site."""
    push_server = PushServer()
    requests, findings = 0, ""
    with tempfile.TemporaryDirectory() as folder:
        site = openapi_site(f"sqlite:///{folder}/fuzz.db", Path(folder), push_server.origin)
        site.flask("db", "upgrade")
        with site.gunicorn(stdout=subprocess.DEVNULL):
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not findings:
                done = run_schemathesis(site, push_server.origin, "--seed", str(random.randrange(2**32)))
                requests += int(re.findall(r"(\d+) generated", done.stdout)[0])
                findings = done.stdout if done.returncode else ""
    push_server.close()
    report.guarantee(
        f"findings in {requests:,} requests to all routes", findings or 0, requests > 0 and not findings
    )


def run(check: Check, inputs: st.SearchStrategy[Any], app: Flask) -> int:
    """Check a number of inputs, and return the number."""
    count = 0

    @seed(random.randrange(2**32))
    @settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs)
    def run_check(value: Any) -> None:
        nonlocal count
        count += 1
        check(app, value)

    with app.test_request_context():
        run_check()
    return count


def check_endpoint_rules(_app: Flask, text: str) -> None:
    """An allowed endpoint is public, as other parsers read it, and has the host that was checked."""
    try:
        check_endpoint(text)
    except ValueError as error:
        assert str(error).startswith("Must "), error  # noqa: PT017  # any other message fails too
        return
    url = URL(text, encoded=True)  # as the client connects to it
    host = url.raw_host or ""
    assert url.scheme == "https"
    assert url.user is None
    assert origin_of(text).host.strip("[]").rstrip(".") == host.lower().rstrip("."), host
    assert url.port == origin_of(text).port
    assert host.rpartition(".")[2].lower() not in SPECIAL_USE
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


def check_subscription(_app: Flask, body: Any) -> None:
    """A body is rejected, or is a subscription that can be stored."""
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


def check_message(_app: Flask, body: Any) -> None:
    """A body is rejected, or is a message that can be sent."""
    try:
        loaded, _ = MessageSchema().load(body)
    except ValidationError as error:
        json.dumps(error.messages)
        return
    assert len(loaded.payload()) <= 3_993


def check_parser(app: Flask, body: bytes) -> None:
    """Random bytes are rejected, as JSON or as a message."""
    client = app.test_client()
    headers = {"Authorization": "Bearer x", "Content-Type": "application/json"}
    response = client.post("/push/messages", data=body, headers=headers)
    assert response.status_code in (400, 422), response.status_code


CHECKS: dict[str, tuple[Check, st.SearchStrategy[Any]]] = {
    "endpoints": (check_endpoint_rules, ENDPOINTS),
    "subscriptions": (check_subscription, SUBSCRIPTIONS),
    "messages": (check_message, MESSAGES),
    "bytes": (check_parser, st.binary(max_size=200)),
}

if __name__ == "__main__":
    main()
