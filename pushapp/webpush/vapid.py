"""VAPID keys and tokens (RFC 8292)."""

import base64
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid import Vapid02

from .endpoints import is_public_host

PRIVATE_KEY_LENGTH = 32  # bytes
PLACEHOLDER_SUBJECT = "mailto:webmaster@example.com"  # accepted by most push services, not by Apple's
TOKEN_LIFETIME = 12 * 60 * 60  # seconds; at most 24 hours (RFC 8292, section 2)
TOKEN_REUSE = 60 * 60  # seconds before a new token is signed: Apple rejects a token per message
MAX_TOKENS = 10_000  # cached, one an origin; endpoints are user input

_RESERVED = ("example", "example.com", "example.net", "example.org", "test")  # RFC 2606


class KeyPair(NamedTuple):
    """A key pair on P-256, both halves as base64url without padding."""

    private: str  # the 32-byte scalar
    public: str  # the uncompressed point, 87 characters


class Signer:
    """Signs the Authorization header for each push service."""

    def __init__(self, key_pair: KeyPair, subject: str = PLACEHOLDER_SUBJECT):
        self.public_key = key_pair.public
        self._subject = subject
        self._vapid = Vapid02.from_raw(key_pair.private.encode())
        self._vapid.conf["no-strict"] = True  # `check_subject` is stricter
        self._cached_header = lru_cache(MAX_TOKENS)(self._sign)

    def authorization(self, origin: str) -> str:
        """Return the Authorization header for a push service's origin (RFC 8292, section 3)."""
        now = int(time.time())
        return self._cached_header(origin, now - now % TOKEN_REUSE + TOKEN_LIFETIME)

    def _sign(self, origin: str, expires_at: int) -> str:
        claims = {"aud": origin, "exp": expires_at, "sub": self._subject}
        return str(self._vapid.sign(claims)["Authorization"])


class Signers:
    """Sign with the key that a subscription was made with: it accepts no other (RFC 8292, section 4.2).

    `key_pairs` begins with the key for new subscriptions; older ones follow, the oldest last.
    """

    def __init__(self, key_pairs: Sequence[KeyPair], subject: str = PLACEHOLDER_SUBJECT):
        self._signers = {pair.public: Signer(pair, subject) for pair in key_pairs}
        self.public_keys = tuple(self._signers)
        self.public_key = self.public_keys[0]  # for new subscriptions

    def authorization(self, origin: str, public_key: str | None) -> str:
        """Return the Authorization header for a push service's origin (RFC 8292, section 3).

        Without a public key, of a subscription that was stored before its key was, the oldest key signs.
        Raises ValueError if the private key of `public_key` is not there.
        """
        signer = self._signers.get(public_key or self.public_keys[-1])
        if signer is None:
            raise ValueError("the private key of its VAPID key is missing: see `flask push keys`")
        return signer.authorization(origin)


def generate_key_pair() -> KeyPair:
    """Return a new key pair."""
    return _key_pair(ec.generate_private_key(ec.SECP256R1()))


def load_key_pair(private_key: object) -> KeyPair:
    """Return the key pair of a private key: base64url of 32 bytes.

    Raises ValueError if it is not a private key on P-256.
    """
    if not isinstance(private_key, str):
        raise ValueError("not a string")
    padding = "=" * (-len(private_key) % 4)
    scalar = base64.b64decode(private_key + padding, altchars=b"-_", validate=True)
    if len(scalar) != PRIVATE_KEY_LENGTH:
        raise ValueError(f"not {PRIVATE_KEY_LENGTH} bytes")
    return _key_pair(ec.derive_private_key(int.from_bytes(scalar), ec.SECP256R1()))


def check_subject(subject: object) -> str:
    """Return a VAPID subject: a mailto: or https: URL at a public host (RFC 8292, section 2.1).

    Raises ValueError if it is not one.
    """
    match = isinstance(subject, str) and re.fullmatch(
        r"mailto:[^\s@,?]+@([^\s@,?]+)|https://([^\s/@:?#]+)(?::[0-9]+)?(?:[/?#]\S*)?", subject
    )
    host = (match[1] or match[2]).lower() if match else ""
    is_reserved = any(f".{host}".endswith(f".{name}") for name in _RESERVED)
    if not host or not is_public_host(host) or is_reserved:
        raise ValueError("not a mailto: or https: URL at a public host")
    return str(subject)


def _key_pair(key: ec.EllipticCurvePrivateKey) -> KeyPair:
    scalar = key.private_numbers().private_value.to_bytes(PRIVATE_KEY_LENGTH)
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return KeyPair(_base64url(scalar), _base64url(point))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
