"""Subscriptions as browsers send them, each with its own keys."""

import base64
import itertools
import secrets
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_numbers = itertools.count(1)


def base64url(data: bytes) -> str:
    """Encode as browsers do, without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def public_point() -> bytes:
    """Return a new public key on P-256: 65 bytes."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def subscription(**fields: Any) -> dict[str, Any]:
    """Return a new browser's PushSubscription.toJSON(), with `fields` replaced."""
    return {
        "endpoint": f"https://updates.push.services.mozilla.com/wpush/v2/{next(_numbers)}",
        "expirationTime": None,
        "keys": {"p256dh": base64url(public_point()), "auth": base64url(secrets.token_bytes(16))},
    } | fields
