"""Message encryption for Web Push (RFC 8188, RFC 8291)."""

import hmac
import os
from base64 import urlsafe_b64decode

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .message import MAX_PLAINTEXT

RECORD_SIZE = 4096  # bytes; the message is a single record
LAST_RECORD = b"\2"  # the delimiter after the plaintext (RFC 8188, section 2)

_CURVE = ec.SECP256R1()


def encrypt(payload: bytes, p256dh: str, auth: str) -> bytes:
    """Return a payload encrypted for one subscription, as one aes128gcm record.

    `payload` has at most MAX_PLAINTEXT bytes; `p256dh` and `auth` are base64url. The key pair and the salt
    are new for each message (RFC 8291, section 3). Raises ValueError for invalid keys, and for a longer
    payload.
    """
    user_agent_key, auth_secret = _decode(p256dh), _decode(auth)
    if len(user_agent_key) != 65 or len(auth_secret) != 16 or len(payload) > MAX_PLAINTEXT:
        raise ValueError("Must have keys of 65 and 16 bytes, and a payload that fits in a push message.")
    return _encrypt(
        payload, user_agent_key, auth_secret, private_key=ec.generate_private_key(_CURVE), salt=os.urandom(16)
    )


def _encrypt(
    payload: bytes,
    user_agent_key: bytes,
    auth_secret: bytes,
    *,
    private_key: ec.EllipticCurvePrivateKey,
    salt: bytes,
) -> bytes:
    peer = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, user_agent_key)
    public_key = private_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    # HKDF in two rounds (RFC 8291, section 3.4). Each output fits in one block, so expanding is one HMAC.
    secret = _hmac(auth_secret, private_key.exchange(ec.ECDH(), peer))
    secret = _hmac(secret, b"WebPush: info\0" + user_agent_key + public_key + b"\1")
    secret = _hmac(salt, secret)
    key = _hmac(secret, b"Content-Encoding: aes128gcm\0\1")[:16]
    nonce = _hmac(secret, b"Content-Encoding: nonce\0\1")[:12]
    header = salt + RECORD_SIZE.to_bytes(4) + bytes([len(public_key)]) + public_key
    return header + AESGCM(key).encrypt(nonce, payload + LAST_RECORD, None)


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
