"""Delivery, against a push service of the tests' own that decrypts and checks what it gets."""

import asyncio
import base64
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import http_ece
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

import pushapp.webpush.client
from pushapp.webpush.client import TOTAL_TIMEOUT, Client
from pushapp.webpush.encryption import encrypt
from pushapp.webpush.message import Message, Urgency
from pushapp.webpush.responses import RETRY, Outcome, Result, classify_response, parse_retry_after
from pushapp.webpush.vapid import TOKEN_LIFETIME, Signer, generate_key_pair
from tests.support.deployment import certificate
from tests.support.push_server import Answer, PushServer, verify
from tests.support.subscriptions import base64url

VECTOR = json.loads(Path(__file__).with_name("vectors").joinpath("rfc8291.json").read_text())
KEY_PAIR = generate_key_pair()
SUBJECT = "mailto:webmaster@site.org"
MESSAGE = Message(title="Hello", body="Grüße 🎉", ttl=60, urgency=Urgency.HIGH, topic="greetings")


class Recipient(NamedTuple):
    id: int
    endpoint: str
    keys_p256dh: str
    keys_auth: str


def recipient(subscription: dict[str, Any], id: int = 1) -> Recipient:
    keys = subscription["keys"]
    return Recipient(id, subscription["endpoint"], keys["p256dh"], keys["auth"])


class Resolver(AbstractResolver):
    """Answers with the next of the addresses it was given, as a changing name does."""

    def __init__(self, *addresses: str):
        self.addresses = list(addresses)

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        address = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        return [{"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


def deliver(
    push_server: PushServer | None,
    subscriptions: Sequence[dict[str, Any]],
    *,
    message: Message = MESSAGE,
    resolver: AbstractResolver | None = None,
    rounds: int = 1,
) -> list[Outcome]:
    async def run() -> list[Outcome]:
        trusted = [push_server.origin] if push_server else []
        signer = Signer(KEY_PAIR, SUBJECT)
        async with Client(signer.authorization, trusted, resolver=resolver) as delivery:
            outcomes: list[Outcome] = []
            for _ in range(rounds):
                outcomes += await delivery.deliver(
                    [recipient(one, number) for number, one in enumerate(subscriptions)],
                    message.payload(),
                    ttl=message.ttl,
                    urgency=message.urgency,
                    topic=message.topic,
                )
            return outcomes

    return asyncio.run(run())


def results(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.result.value for outcome in outcomes]


class TestEncrypting:
    def test_gives_what_the_rfc_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        private = ec.derive_private_key(int.from_bytes(decode(VECTOR["as_private"])), ec.SECP256R1())
        monkeypatch.setattr("pushapp.webpush.encryption.ec.generate_private_key", lambda curve: private)
        monkeypatch.setattr(
            "pushapp.webpush.encryption.os.urandom", lambda length: decode(VECTOR["salt"])[:length]
        )
        body = encrypt(VECTOR["plaintext"].encode(), VECTOR["ua_public"], VECTOR["auth_secret"])
        assert base64url(body) == VECTOR["body"]

    def test_is_read_with_the_rfcs_keys(self) -> None:
        private = ec.derive_private_key(int.from_bytes(decode(VECTOR["ua_private"])), ec.SECP256R1())
        bodies = [encrypt(b"secret", VECTOR["ua_public"], VECTOR["auth_secret"]) for _ in range(2)]
        assert bodies[0] != bodies[1]
        for body in bodies:
            auth = decode(VECTOR["auth_secret"])
            assert http_ece.decrypt(body, private_key=private, auth_secret=auth) == b"secret"

    def test_a_full_message_is_4096_bytes(self) -> None:
        assert len(encrypt(b"x" * 3_993, VECTOR["ua_public"], VECTOR["auth_secret"])) == 4_096


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_a_message_arrives_as_it_was_meant(push_server: PushServer) -> None:
    subscription = push_server.subscription()
    assert results(deliver(push_server, [subscription])) == ["sent"]
    (push,) = push_server.to(subscription)
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


def test_all_messages_to_an_origin_carry_one_token_over_kept_connections(push_server: PushServer) -> None:
    subscriptions = [push_server.subscription() for _ in range(200)]
    assert set(results(deliver(push_server, subscriptions))) == {"sent"}
    assert len({push.headers["authorization"] for push in push_server.pushes}) == 1
    assert len(push_server.pushes) == 200


ANSWERS: list[tuple[Answer, str]] = [
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
    (b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\nonly this", "retry"),
    (b"\x00\xff nothing of HTTP\r\n\r\n", "retry"),
    (b"HTTP/1.1 201 Created\r\n" + b"X: y\r\n" * 100_000, "retry"),
    (b"HTTP/1.1 201 Created\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n", "retry"),
]


@pytest.mark.parametrize(("answer", "result"), ANSWERS)
def test_an_answer_is_judged(push_server: PushServer, answer: Answer, result: str) -> None:
    subscriptions = [push_server.subscription(answer), push_server.subscription()]
    assert results(deliver(push_server, subscriptions, rounds=2)) == [result, "sent"] * 2
    assert push_server.requests == 4  # no redirect was followed


def test_silence_costs_its_own_message_only(push_server: PushServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushapp.webpush.client.TOTAL_TIMEOUT", 1)
    silence = threading.Event()
    subscriptions = [
        push_server.subscription(lambda: silence.wait(5)),
        push_server.subscription(),
    ]
    began = time.monotonic()
    assert results(deliver(push_server, subscriptions)) == ["retry", "sent"]
    assert time.monotonic() - began < 4
    silence.set()


def test_an_answer_without_end_is_read_to_64_kib_only(push_server: PushServer) -> None:
    head = b"HTTP/1.1 201 Created\r\nContent-Length: 1000000000\r\n\r\n"
    subscription = push_server.subscription(head + b"x" * 1_000_000)
    assert results(deliver(push_server, [subscription])) == ["sent"]


def test_nobody_listens(push_server: PushServer) -> None:
    subscription = push_server.subscription()
    push_server.close()
    assert results(deliver(push_server, [subscription])) == ["retry"]


def test_a_certificate_that_is_not_trusted_is_no_fault_of_the_subscriptions(
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
    assert outcome == RETRY


def test_a_push_service_that_is_away_is_left_alone_for_a_while(push_server: PushServer) -> None:
    away = [push_server.subscription((503, {}, b"")) for _ in range(20)]
    assert set(results(deliver(push_server, away, rounds=3))) == {"retry"}
    assert push_server.requests == 20


def test_one_that_is_overrun_says_how_long(push_server: PushServer) -> None:
    overrun = [push_server.subscription((429, {"Retry-After": "120"}, b"")) for _ in range(12)]
    outcomes = deliver(push_server, overrun, rounds=2)
    assert push_server.requests == 12
    assert all(100 < (outcome.retry_after or 0) <= 120 for outcome in outcomes)


def test_one_push_service_in_trouble_does_not_hold_up_another(push_server: PushServer) -> None:
    other = PushServer()
    away = [other.subscription((503, {}, b"")) for _ in range(12)]
    well = push_server.subscription()

    async def run() -> list[Outcome]:
        async with Client(
            Signer(KEY_PAIR, SUBJECT).authorization, [push_server.origin, other.origin]
        ) as delivery:
            options: dict[str, Any] = {"ttl": 0, "urgency": Urgency.NORMAL, "topic": None}
            await delivery.deliver([recipient(one) for one in away], MESSAGE.payload(), **options)
            return await delivery.deliver([recipient(away[0]), recipient(well)], MESSAGE.payload(), **options)

    assert results(asyncio.run(run())) == ["retry", "sent"]
    assert other.requests == 12
    other.close()


def test_only_so_many_push_services_are_remembered(
    push_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushapp.webpush.client.MAX_TRACKED_ORIGINS", 1)
    other = PushServer()
    away, well = other.subscription((503, {}, b"")), push_server.subscription()

    async def run() -> None:
        trusted = [push_server.origin, other.origin]
        async with Client(Signer(KEY_PAIR, SUBJECT).authorization, trusted) as delivery:
            for bodies in [away] * 12, [well], [away]:
                recipients = [recipient(one) for one in bodies]
                await delivery.deliver(
                    recipients, MESSAGE.payload(), ttl=0, urgency=Urgency.NORMAL, topic=None
                )

    asyncio.run(run())
    assert other.requests == 12 + 1
    other.close()


class TestAddresses:
    @pytest.mark.parametrize(
        "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1"]
    )
    def test_a_name_that_leads_inside_is_not_dialled(self, push_server: PushServer, address: str) -> None:
        subscription = push_server.subscription()
        subscription["endpoint"] = f"https://push.example.net:{push_server.server_port}/wpush/x"
        assert results(deliver(None, [subscription], resolver=Resolver(address))) == ["retry"]
        assert push_server.requests == 0

    def test_a_name_that_changes_its_mind_is_not_dialled(self, push_server: PushServer) -> None:
        subscription = push_server.subscription()
        subscription["endpoint"] = f"https://push.example.net:{push_server.server_port}/wpush/x"
        resolver = Resolver("192.0.2.1", "127.0.0.1")
        deliver(None, [subscription], resolver=resolver, rounds=2)
        assert push_server.requests == 0

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "2130706433", "0x7f.1", "localhost", "10.0.0.1"])
    def test_a_literal_address_is_not_dialled_whatever_was_stored(
        self, push_server: PushServer, host: str
    ) -> None:
        subscription = push_server.subscription()
        subscription["endpoint"] = f"http://{host}:{push_server.server_port}/wpush/x"
        assert results(deliver(None, [subscription])) == ["failed"]
        assert push_server.requests == 0

    def test_a_trusted_name_may_lead_inside(self, push_server: PushServer) -> None:
        subscription = push_server.subscription()
        path = subscription["endpoint"].removeprefix(push_server.origin)
        push_server.origin = f"http://push.internal:{push_server.server_port}"
        subscription["endpoint"] = push_server.origin + path
        assert results(deliver(push_server, [subscription], resolver=Resolver("127.0.0.1"))) == ["sent"]

    def test_name_servers_that_say_nothing_take_no_threads_and_little_time(
        self, push_server: PushServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        silent = socket.socket(type=socket.SOCK_DGRAM)
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(1)
        name_server = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(
            aiohttp, "AsyncResolver", partial(aiohttp.AsyncResolver, nameservers=[name_server])
        )
        keys = push_server.subscription()["keys"]
        away = [{"endpoint": f"https://{number}.example.net/x", "keys": keys} for number in range(100)]

        async def thread_is_free() -> float:
            began = time.monotonic()
            await asyncio.sleep(1)
            await asyncio.to_thread(int)
            return time.monotonic() - began

        async def run() -> tuple[list[Outcome], float]:
            async with Client(Signer(KEY_PAIR, SUBJECT).authorization, [push_server.origin]) as delivery:
                options: dict[str, Any] = {"ttl": 0, "urgency": Urgency.NORMAL, "topic": None}
                subscriptions = [recipient(one) for one in [*away, push_server.subscription()]]
                sending = delivery.deliver(subscriptions, MESSAGE.payload(), **options)
                return await asyncio.gather(sending, thread_is_free())

        with silent:
            began = time.monotonic()
            outcomes, seconds = asyncio.run(run())
            assert results(outcomes) == ["retry"] * 100 + ["sent"]
            assert silent.recv(1_000)
        assert seconds < 3
        assert time.monotonic() - began < TOTAL_TIMEOUT


def test_keys_that_make_no_sense_fail_alone(push_server: PushServer) -> None:
    broken = push_server.subscription()
    broken["keys"] = {"p256dh": base64url(b"\4" + bytes(64)), "auth": base64url(bytes(16))}
    outcomes = deliver(push_server, [broken, push_server.subscription()])
    assert results(outcomes) == ["failed", "sent"]
    assert outcomes[0].is_subscription_error


@pytest.mark.parametrize(("ttl", "policy"), [(0, "no-cache"), (60, "cache")])
def test_windows_is_told_to_cache(
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


def test_the_endpoint_is_posted_to_letter_by_letter(push_server: PushServer) -> None:
    subscription = push_server.subscription()
    subscription["endpoint"] += "?token=a%2bb%7E%2F;+,~"
    assert results(deliver(push_server, [subscription])) == ["sent"]
    assert push_server.requests == 1


class TestBlame:
    @pytest.mark.parametrize("status", [401, 403])
    def test_is_ours_first(self, status: int) -> None:
        assert classify_response(status) == Outcome(Result.FAILED, is_subscription_error=False)

    @pytest.mark.parametrize(
        ("status", "answer"),
        [
            (400, b'{"reason":"VapidPkHashMismatch"}'),
            (
                403,
                b"the VAPID credentials in the authorization header do not correspond to the credentials used",
            ),
            (401, b"VAPID public key mismatch"),
            (413, b""),
            (302, b""),
        ],
    )
    def test_is_the_subscriptions_when_the_answer_says_so(self, status: int, answer: bytes) -> None:
        assert classify_response(status, None, answer) == Outcome(Result.FAILED, is_subscription_error=True)

    def test_is_logged_once_without_secrets(
        self, push_server: PushServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        subscriptions = [push_server.subscription((403, {}, b"BadJwtToken")) for _ in range(20)]
        deliver(push_server, subscriptions)
        lines = [line for line in caplog.messages if "PUSH_VAPID_SUBJECT" in line]
        assert len(lines) == 1
        assert push_server.origin in lines[0]
        for subscription in subscriptions:
            assert subscription["endpoint"] not in caplog.text
            assert subscription["keys"]["auth"] not in caplog.text


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("0", 0), ("7", 7), (" 7 ", 7), ("999999999", 3_600), ("Thu, 01 Jan 1970 00:00:00 GMT", 0)],
    )
    def test_is_seconds_or_a_date(self, text: str, seconds: float) -> None:
        assert parse_retry_after(text) == seconds

    def test_is_a_date_to_come(self) -> None:
        moment = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
        assert 90 < (parse_retry_after(moment) or 0) <= 100
        assert parse_retry_after(format_datetime(datetime.now(UTC) + timedelta(days=3_650))) == 3_600

    @pytest.mark.parametrize(
        "text", [None, "", "soon", "-1", "1.5", "١", "9" * 500, "Fri, 99 Foo 2026", "\0"]
    )
    def test_is_nothing_when_it_is_rubbish(self, text: str | None) -> None:
        assert parse_retry_after(text) is None

    @given(st.text())
    def test_is_never_an_error(self, text: str) -> None:
        assert parse_retry_after(text) is None or 0 <= (parse_retry_after(text) or 0) <= 3_600


class TestTokens:
    def test_are_one_for_each_origin(self) -> None:
        signer = Signer(KEY_PAIR, SUBJECT)
        first, again, other = (signer.authorization(f"https://{name}.net") for name in ("a", "a", "b"))
        assert first == again
        assert verify(first)["aud"] == "https://a.net"
        assert verify(other)["aud"] == "https://b.net"

    def test_are_kept_for_so_many_origins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pushapp.webpush.vapid.MAX_TOKENS", 2)
        signer = Signer(KEY_PAIR, SUBJECT)
        first, second = (signer.authorization(f"https://{name}.net") for name in ("a", "b"))
        assert (signer.authorization("https://a.net"), signer.authorization("https://b.net")) == (
            first,
            second,
        )
        signer.authorization("https://c.net")
        assert signer.authorization("https://a.net") != first

    def test_are_signed_anew_near_their_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        signer = Signer(KEY_PAIR, SUBJECT)
        first = signer.authorization("https://a.net")
        now = time.time()
        monkeypatch.setattr("pushapp.webpush.vapid.time.time", lambda: now + TOKEN_LIFETIME - 60)
        assert signer.authorization("https://a.net") != first
        assert verify(signer.authorization("https://a.net"))["exp"] > now + TOKEN_LIFETIME


def test_delivery_knows_nothing_of_flask_or_the_queue() -> None:
    source = Path(pushapp.webpush.client.__file__).read_text()
    assert "flask" not in source.lower().replace("knows nothing of flask", "")
    assert "procrastinate" not in source
