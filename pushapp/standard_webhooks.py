"""Signatures of webhooks (Standard Webhooks, version 1)."""

import base64
import hmac

from .webpush.endpoints import origin_of

PREFIX = "whsec_"
KEY_LENGTHS = range(24, 65)  # bytes


def parse_secret(secret: object) -> bytes:
    """Return the key of a secret: `whsec_` and base64 of 24 to 64 bytes.

    Raises ValueError with what it must be.
    """
    text = secret if isinstance(secret, str) else ""
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not text.startswith(PREFIX) or len(key) not in KEY_LENGTHS:
        raise ValueError(f"must be {PREFIX} and the base64 of 24 to 64 random bytes")
    return key


def check_url(url: object) -> str:
    """Return an http or https URL.

    Raises ValueError with what it must be.
    """
    text = url if isinstance(url, str) and url.isascii() and url.isprintable() and " " not in url else ""
    try:
        origin_of(text)
    except ValueError:
        raise ValueError("must be an http or https URL without a user") from None
    return text


def sign(key: bytes, webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return the header webhook-signature; `timestamp` is in seconds since 1970."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
