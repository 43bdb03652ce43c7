"""Message encryption for Web Push (RFC 8188, RFC 8291)."""

import os
from base64 import urlsafe_b64decode

import http_ece
from cryptography.hazmat.primitives.asymmetric import ec


def encrypt(payload: bytes, p256dh: str, auth: str) -> bytes:
    """Return a payload encrypted for one subscription, as one aes128gcm record.

    `p256dh` and `auth` are base64url. The key pair and the salt are new for each message (RFC 8291,
    section 3). Raises ValueError for invalid keys.
    """
    body: bytes = http_ece.encrypt(
        payload,
        salt=os.urandom(16),
        private_key=ec.generate_private_key(ec.SECP256R1()),
        dh=_decode(p256dh),
        auth_secret=_decode(auth),
        version="aes128gcm",
    )
    return body


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
