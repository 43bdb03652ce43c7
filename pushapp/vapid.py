"""Who says it: the application server's VAPID key pair (RFC 8292)."""

import base64
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask import Flask, current_app

from .config import ConfigurationError, kept_in_instance_folder

PRIVATE_KEY_LENGTH = 32


class KeyPair(NamedTuple):
    """A key pair on P-256, both parts as base64url without padding."""

    private: str  # the 32-byte scalar
    public: str  # the uncompressed point, 87 characters


def generate_key_pair() -> KeyPair:
    """Return a fresh key pair."""
    return _key_pair(ec.generate_private_key(ec.SECP256R1()))


def init_app(app: Flask, *, embedded_database: bool) -> None:
    """Check the application's VAPID key; without one, keep one in the instance folder beside SQLite.

    Raises ConfigurationError.
    """
    private = app.config["PUSH_VAPID_PRIVATE_KEY"]
    if not private:
        if not embedded_database:
            raise ConfigurationError(
                "PUSH_VAPID_PRIVATE_KEY is not set: with a database server, set FLASK_PUSH_VAPID_PRIVATE_KEY "
                "to a key made by `DATABASE_URL= flask --app wsgi push vapid-keys`"
            )
        private = kept_in_instance_folder(app, "vapid_private_key", lambda: generate_key_pair().private)
    app.extensions["push_vapid"] = _load(private)


def public_key() -> str:
    """Return the current application's public key, which browsers subscribe with: 87 characters."""
    key_pair: KeyPair = current_app.extensions["push_vapid"]
    return key_pair.public


def _load(private: object) -> KeyPair:
    try:
        if not isinstance(private, str):
            raise ValueError
        scalar = base64.b64decode(private + "=" * (-len(private) % 4), altchars=b"-_", validate=True)
        if len(scalar) != PRIVATE_KEY_LENGTH:
            raise ValueError
        return _key_pair(ec.derive_private_key(int.from_bytes(scalar), ec.SECP256R1()))
    except ValueError:
        raise ConfigurationError(
            "PUSH_VAPID_PRIVATE_KEY must be the base64url of a 32-byte private key on P-256, as "
            "`flask --app wsgi push vapid-keys` prints it"
        ) from None


def _key_pair(key: ec.EllipticCurvePrivateKey) -> KeyPair:
    scalar = key.private_numbers().private_value.to_bytes(PRIVATE_KEY_LENGTH)
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return KeyPair(_base64url(scalar), _base64url(point))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
