"""Message encryption, against the example of RFC 8291 and another implementation."""

import base64
import json
from pathlib import Path

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pushapp.webpush.encryption import _encrypt, encrypt
from tests.support.subscriptions import base64url

VECTOR = json.loads(Path(__file__).with_name("vectors").joinpath("rfc8291.json").read_text())
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of the group of P-256
PUBLIC, AUTH = VECTOR["ua_public"], VECTOR["auth_secret"]


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def private_key(scalar: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(scalar, ec.SECP256R1())


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def test_the_body_is_that_of_rfc_8291() -> None:
    key = private_key(int.from_bytes(decode(VECTOR["as_private"])))
    body = _encrypt(
        VECTOR["plaintext"].encode(), decode(PUBLIC), decode(AUTH),
        private_key=key, salt=decode(VECTOR["salt"]),
    )  # fmt: skip
    assert base64url(public_bytes(key)) == VECTOR["as_public"]
    assert base64url(body) == VECTOR["body"]


def test_a_body_is_decrypted_with_the_keys_of_rfc_8291() -> None:
    key = private_key(int.from_bytes(decode(VECTOR["ua_private"])))
    for body in [encrypt(b"secret", PUBLIC, AUTH) for _ in range(2)]:
        assert http_ece.decrypt(body, private_key=key, auth_secret=decode(AUTH)) == b"secret"


def test_each_message_has_a_key_pair_and_a_salt_of_its_own() -> None:
    bodies = [encrypt(b"secret", PUBLIC, AUTH) for _ in range(20)]
    assert len({body[:16] for body in bodies}) == 20
    assert len({body[21:86] for body in bodies}) == 20


@given(
    payload=st.integers(0, 3_993).flatmap(lambda length: st.binary(min_size=length, max_size=length)),
    scalar=st.integers(1, ORDER - 1),
    auth=st.binary(min_size=16, max_size=16),
)
def test_any_payload_for_any_keys_is_decrypted(payload: bytes, scalar: int, auth: bytes) -> None:
    key = private_key(scalar)
    body = encrypt(payload, base64url(public_bytes(key)), base64url(auth))
    assert len(body) == len(payload) + 103
    assert http_ece.decrypt(body, private_key=key, auth_secret=auth) == payload


def test_the_longest_message_has_4096_bytes() -> None:
    assert len(encrypt(b"x" * 3_993, PUBLIC, AUTH)) == 4_096
    with pytest.raises(ValueError, match="payload"):
        encrypt(b"x" * 3_994, PUBLIC, AUTH)


@pytest.mark.parametrize(
    ("p256dh", "auth"),
    [
        ("", AUTH),
        ("é" * 87, AUTH),
        ("A", AUTH),
        (base64url(b"\4" + bytes(64)), AUTH),  # not on the curve
        (base64url(bytes(65)), AUTH),  # the point at infinity
        (base64url(b"\2" + decode(PUBLIC)[1:33]), AUTH),  # compressed
        (base64url(b"\6" + decode(PUBLIC)[1:]), AUTH),  # hybrid
        (PUBLIC, ""),
        (PUBLIC, base64url(bytes(15))),
        (PUBLIC, base64url(bytes(17))),
        (AUTH, PUBLIC),
    ],
)
def test_invalid_keys_are_value_errors(p256dh: str, auth: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # several libraries raise it
        encrypt(b"secret", p256dh, auth)
