"""Delivery, to a push service of the tests that decrypts and checks its requests."""

import json
import re
import ssl
import threading
import time
from pathlib import Path

import pytest

import pushapp.webpush.client
from pushapp.webpush.message import Message
from pushapp.webpush.responses import Counted, Result
from pushapp.webpush.transport import TOTAL_TIMEOUT
from tests.support.delivery import KEY_PAIR, MESSAGE, SUBJECT, Resolver, deliver, results
from tests.support.deployment import certificate
from tests.support.push_server import PushServer, Response
from tests.support.subscriptions import base64url


def test_a_message_arrives_with_its_payload_and_headers(push_server: PushServer) -> None:
    subscription = push_server.subscription()
    assert results(deliver(push_server, [subscription])) == ["sent"]
    (push,) = push_server.pushes_to(subscription)
    assert push.message == json.loads(MESSAGE.payload())
    assert push.padded_length == 256
    assert push.claims["sub"] == SUBJECT
    assert push.claims["k"] == KEY_PAIR.public
    assert {name: push.headers[name] for name in ("ttl", "urgency", "topic", "content-encoding")} == {
        "ttl": "60",
        "urgency": "high",
        "topic": "greetings",
        "content-encoding": "aes128gcm",
    }
    assert "cookie" not in push.headers


def test_all_messages_to_an_origin_share_one_token(push_server: PushServer) -> None:
    subscriptions = [push_server.subscription() for _ in range(200)]
    assert set(results(deliver(push_server, subscriptions))) == {"sent"}
    assert len({push.headers["authorization"] for push in push_server.pushes}) == 1
    assert len(push_server.pushes) == 200


RESPONSES: list[tuple[Response, str]] = [
    ((200, {}, b""), "sent"),
    ((201, {}, b""), "sent"),
    ((202, {}, b"x" * 70_000), "sent"),
    ((404, {}, b""), "gone"),
    ((410, {}, b"x" * 100), "gone"),
    ((400, {}, b""), "failed"),
    ((400, {}, b'{"reason":"VapidPkHashMismatch"}'), "failed"),
    ((401, {}, b""), "failed"),
    ((403, {}, b"the key in the authorization header does not correspond"), "failed"),
    ((413, {}, b""), "failed"),
    ((301, {"Location": "/elsewhere"}, b""), "failed"),
    ((307, {"Location": "/elsewhere"}, b""), "failed"),
    ((429, {}, b""), "retry"),
    ((429, {"Retry-After": "7"}, b""), "retry"),
    ((500, {}, b"<h1>Oops</h1>"), "retry"),
    ((503, {"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, b""), "retry"),
    (b"", "retry"),
    (b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\ntruncated", "sent"),
    (b"\x00\xff not HTTP\r\n\r\n", "retry"),
    (b"ICY 200 OK\r\n\r\n", "retry"),
    (b"HTTP/1.1 abc\r\n\r\n", "retry"),
    (b"HTTP/1.1 000 x\r\n\r\n", "retry"),
    (b"HTTP/1.1 2000 x\r\n\r\n", "retry"),
    (b"HTTP/1.1 201x Created\r\n\r\n", "retry"),
    (b"HTTP/1.1 \r\n\r\n", "retry"),
    (b"HTTP/1.1\r\n\r\n", "retry"),
    (b"HTTP/ 201\r\n\r\n", "retry"),
    (b"HTTP/1.1 201 Created\r\nHTTP/1.1 500\r\n\r\n", "retry"),
    (b"http/1.1 201 Created\r\n\r\n", "sent"),
    (b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n", "sent"),
    (b"HTTP/1.1 201 Created\r\nno colon\r\n\r\n", "retry"),
    (b"HTTP/1.1 201 Created\r\nA: \0\r\n\r\n", "retry"),
    (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, "retry"),
    (b"HTTP/1.0 201 Created\n\n", "sent"),
    (b"HTTP/1.1 201\r\n\r\n", "sent"),
    (b"HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\n\r\nnot compressed", "sent"),
    (b"HTTP/1.1 201 Created\r\n" + b"X: y\r\n" * 100_000, "retry"),
    (b"HTTP/1.1 201 Created\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n", "retry"),
]


@pytest.mark.parametrize(("response", "result"), RESPONSES)
def test_a_response_is_classified(push_server: PushServer, response: Response, result: str) -> None:
    subscriptions = [push_server.subscription(response), push_server.subscription()]
    assert results(deliver(push_server, subscriptions, rounds=2)) == [result, "sent"] * 2
    # No redirect was followed. libcurl repeats a request once if a reused connection ends without a response.
    assert push_server.requests == 4 or (response == b"" and push_server.requests <= 6)


def test_a_missing_response_delays_only_its_own_message(
    push_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.webpush.transport.TOTAL_TIMEOUT", 1)
    end_of_test = threading.Event()
    subscriptions = [
        push_server.subscription(lambda: end_of_test.wait(5)),
        push_server.subscription(),
    ]
    began = time.monotonic()
    assert results(deliver(push_server, subscriptions)) == ["retry", "sent"]
    assert time.monotonic() - began < 10
    end_of_test.set()


def test_at_most_64_kib_of_a_response_are_read(
    push_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.webpush.transport.BODY_TIMEOUT", 60)
    end_of_test = threading.Event()
    head = b"HTTP/1.1 201 Created\r\nContent-Length: 1000000000\r\n\r\n"
    subscription = push_server.subscription(head + b"x" * 1_000_000)
    push_server.after_response = lambda: end_of_test.wait(20)
    began = time.monotonic()
    assert results(deliver(push_server, [subscription])) == ["sent"]
    assert time.monotonic() - began < TOTAL_TIMEOUT - 1
    end_of_test.set()


def test_a_refused_connection_is_retried(push_server: PushServer) -> None:
    subscription = push_server.subscription()
    push_server.close()
    assert results(deliver(push_server, [subscription])) == ["retry"]


def test_an_untrusted_certificate_is_not_a_subscription_error(
    push_server: PushServer, tmp_path: Path
) -> None:
    certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "example.com.pem", tmp_path / "example.com.key")
    push_server.socket = context.wrap_socket(push_server.socket, server_side=True)
    subscription = push_server.subscription()
    push_server.origin = f"https://127.0.0.1:{push_server.server_port}"
    subscription["endpoint"] = subscription["endpoint"].replace("http:", "https:")
    (outcome,) = deliver(push_server, [subscription])
    assert outcome.result is Result.RETRY
    assert outcome.counts_against is Counted.PUSH_SERVICE


def test_invalid_keys_fail_only_their_own_message(push_server: PushServer) -> None:
    invalid = push_server.subscription()
    invalid["keys"] = {"p256dh": base64url(b"\4" + bytes(64)), "auth": base64url(bytes(16))}
    outcomes = deliver(push_server, [invalid, push_server.subscription()])
    assert results(outcomes) == ["failed", "sent"]
    assert outcomes[0].counts_against is Counted.SUBSCRIPTION


@pytest.mark.parametrize(("ttl", "policy"), [(0, "no-cache"), (60, "cache")])
def test_windows_push_gets_a_cache_policy(
    push_server: PushServer, monkeypatch: pytest.MonkeyPatch, ttl: int, policy: str
) -> None:
    name = f"http://wns2.notify.windows.com:{push_server.server_port}"
    subscription = push_server.subscription()
    subscription["endpoint"] = subscription["endpoint"].replace(push_server.origin, name)
    push_server.origin = name
    message = Message(title="x", ttl=ttl)
    assert results(deliver(push_server, [subscription], message=message, resolver=Resolver("127.0.0.1"))) == [
        "sent"
    ]
    (push,) = push_server.pushes
    assert push.headers["x-wns-cache-policy"] == policy


def test_the_url_of_the_request_is_the_endpoint_verbatim(push_server: PushServer) -> None:
    subscription = push_server.subscription()
    subscription["endpoint"] += "?token=a%2bb%7E%2F;+,~"
    assert results(deliver(push_server, [subscription])) == ["sent"]
    assert push_server.requests == 1


def test_the_package_is_independent_of_flask_and_the_queue() -> None:
    for path in Path(pushapp.webpush.client.__file__).parent.glob("*.py"):
        imported = re.findall(r"^ *(?:from|import) +([\w.]+)", path.read_text(), re.MULTILINE)
        forbidden = [name for name in imported if re.match(r"flask|procrastinate|sqlalchemy|\.\.\w", name)]
        assert forbidden == [], path
