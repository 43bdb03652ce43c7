"""For the tests of applications that use pushapp."""

import json
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alembic import command
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask import Flask

from . import subscriptions
from .models import normalize_user_id
from .schema import alembic_config
from .sending.suppression import captures, fake_browsers
from .subscriptions import Subscription
from .webpush.message import Message

PUSH_SERVICE = "https://push-service.example"  # a name that never resolves (RFC 2606)


def create_tables(app: Flask) -> None:
    """Create pushapp's tables in the application's database, also in one in memory."""
    with app.app_context():
        command.upgrade(alembic_config(), "head")


@contextmanager
def captured(app: Flask) -> Iterator[list[tuple[Message, Any]]]:
    """Yield the list of what is sent inside: `(message, to)` in order, with `to` as it was given to `send`.

    Nothing leaves the process. A message is in the list as soon as `send` returns: before it is due, and
    before a transaction that it was sent in commits.
    """
    sent: list[tuple[Message, Any]] = []
    captures(app).append(sent)
    try:
        yield sent
    finally:
        # By identity: nested captures that hold the same messages are equal.
        captures(app)[:] = [each for each in captures(app) if each is not sent]


class FakeBrowser:
    """A user's browser, subscribed with keys of its own; `received` are the payloads that it was sent.

    Its push service is in this process. `send` delivers to it at once, also while sends are suppressed;
    where they are not, on PostgreSQL, a worker of this process does. `subscription` is what the browser
    would post to `/push/subscribe`.

    Raises ValueError if the user's id is invalid.
    """

    def __init__(self, app: Flask, user: str | int):
        user_id = normalize_user_id(user)
        if user_id is None:
            raise ValueError(f"{user!r} is not a user's id")
        self.received: list[dict[str, Any]] = []
        self._key, self._auth = ec.generate_private_key(ec.SECP256R1()), secrets.token_bytes(16)
        endpoint = f"{PUSH_SERVICE}/{secrets.token_urlsafe(16)}"
        keys = {"p256dh": _base64url(_public_bytes(self._key)), "auth": _base64url(self._auth)}
        self.subscription = {"endpoint": endpoint, "expirationTime": None, "keys": keys}
        fake_browsers(app)[endpoint] = self._receive
        with app.app_context():
            subscriptions.save(user_id, Subscription(endpoint, keys["p256dh"], keys["auth"]))

    def _receive(self, body: bytes) -> None:
        self.received.append(json.loads(_decrypt(body, self._key, self._auth)))


def _decrypt(body: bytes, key: ec.EllipticCurvePrivateKey, auth: bytes) -> bytes:
    """Decrypt one aes128gcm record (RFC 8188, section 2; RFC 8291, section 3.4)."""
    salt, sender, ciphertext = body[:16], body[21:86], body[86:]
    shared = key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender))
    info = b"WebPush: info\0" + _public_bytes(key) + sender
    secret = HKDF(SHA256(), 32, auth, info).derive(shared)
    content_key = HKDF(SHA256(), 16, salt, b"Content-Encoding: aes128gcm\0").derive(secret)
    nonce = HKDF(SHA256(), 12, salt, b"Content-Encoding: nonce\0").derive(secret)
    return AESGCM(content_key).decrypt(nonce, ciphertext, None).rstrip(b"\0")[:-1]


def _public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
