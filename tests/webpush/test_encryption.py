"""Message encryption, against the example of RFC 8291 and another implementation."""

import base64
import json
from pathlib import Path

import http_ece
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pushapp.webpush.encryption import encrypt
from tests.support.subscriptions import base64url

VECTOR = json.loads(Path(__file__).with_name("vectors").joinpath("rfc8291.json").read_text())


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_the_body_is_that_of_rfc_8291(monkeypatch: pytest.MonkeyPatch) -> None:
    private = ec.derive_private_key(int.from_bytes(decode(VECTOR["as_private"])), ec.SECP256R1())
    monkeypatch.setattr("pushapp.webpush.encryption.ec.generate_private_key", lambda curve: private)
    monkeypatch.setattr(
        "pushapp.webpush.encryption.os.urandom", lambda length: decode(VECTOR["salt"])[:length]
    )
    body = encrypt(VECTOR["plaintext"].encode(), VECTOR["ua_public"], VECTOR["auth_secret"])
    assert base64url(body) == VECTOR["body"]


def test_a_body_is_decrypted_with_the_keys_of_rfc_8291() -> None:
    private = ec.derive_private_key(int.from_bytes(decode(VECTOR["ua_private"])), ec.SECP256R1())
    bodies = [encrypt(b"secret", VECTOR["ua_public"], VECTOR["auth_secret"]) for _ in range(2)]
    assert bodies[0] != bodies[1]
    for body in bodies:
        auth = decode(VECTOR["auth_secret"])
        assert http_ece.decrypt(body, private_key=private, auth_secret=auth) == b"secret"


def test_the_longest_message_has_4096_bytes() -> None:
    assert len(encrypt(b"x" * 3_993, VECTOR["ua_public"], VECTOR["auth_secret"])) == 4_096
