"""Who says it: the application server's key pair, and the tokens it signs (RFC 8292)."""

import base64
import re
import threading
import time
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask import Flask, current_app
from py_vapid import Vapid02

from .config import ConfigurationError, kept_in_instance_folder
from .push_services import is_public_host

PRIVATE_KEY_LENGTH = 32
NO_SUBJECT = "mailto:webmaster@example.com"  # nobody's: enough for most push services, not for Apple's
TOKEN_LIFETIME = 12 * 60 * 60  # seconds; at most 24 hours (RFC 8292, section 2)
TOKEN_RENEWAL = 60 * 60  # seconds before its end that a token is signed anew
MAX_TOKENS = 10_000  # origins; anybody can bring endpoints of new ones

_RESERVED = ("example", "example.com", "example.net", "example.org", "test")  # RFC 2606


class KeyPair(NamedTuple):
    """A key pair on P-256, both parts as base64url without padding."""

    private: str  # the 32-byte scalar
    public: str  # the uncompressed point, 87 characters


class Signer:
    """Makes the Authorization header for each push service, and uses it until near its end.

    Signing anew for each message costs time, and Apple refuses it.
    """

    def __init__(self, key_pair: KeyPair, subject: str):
        self._vapid = Vapid02.from_raw(key_pair.private.encode())
        self._vapid.conf["no-strict"] = True  # the subject was checked when the application started
        self._subject = subject
        self._tokens: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def authorization(self, origin: str) -> str:
        """Return the Authorization header for a push service's origin (RFC 8292, section 3)."""
        now = time.time()
        header, renew_at = self._tokens.get(origin, ("", 0.0))
        if now < renew_at:
            return header
        with self._lock:
            claims = {"aud": origin, "exp": int(now) + TOKEN_LIFETIME, "sub": self._subject}
            header = str(self._vapid.sign(claims)["Authorization"])
            if len(self._tokens) >= MAX_TOKENS:
                self._tokens.clear()
            self._tokens[origin] = (header, now + TOKEN_LIFETIME - TOKEN_RENEWAL)
        return header


def generate_key_pair() -> KeyPair:
    """Return a fresh key pair."""
    return _key_pair(ec.generate_private_key(ec.SECP256R1()))


def init_app(app: Flask, *, embedded_database: bool) -> None:
    """Check the application's VAPID key and subject; beside SQLite, make the key and keep it.

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
    key_pair = _load(private)
    app.extensions["push_vapid"] = key_pair
    app.extensions["push_signer"] = Signer(key_pair, _check_subject(app.config["PUSH_VAPID_SUBJECT"]))


def public_key() -> str:
    """Return the current application's public key, which browsers subscribe with: 87 characters."""
    key_pair: KeyPair = current_app.extensions["push_vapid"]
    return key_pair.public


def signer() -> Signer:
    """Return what signs for the current application."""
    found: Signer = current_app.extensions["push_signer"]
    return found


def _check_subject(subject: object) -> str:
    if subject is None:
        return NO_SUBJECT
    match = isinstance(subject, str) and re.fullmatch(
        r"mailto:[^\s@,?]+@([^\s@,?]+)|https://([^\s/@:?#]+)(?::[0-9]+)?(?:[/?#]\S*)?", subject
    )
    host = match and (match[1] or match[2])
    if (
        not host
        or not is_public_host(host)
        or any(f".{host.lower()}".endswith(f".{name}") for name in _RESERVED)
    ):
        raise ConfigurationError(
            "PUSH_VAPID_SUBJECT must be how push services reach you, such as mailto:you@your-site.org or "
            "https://your-site.org, at a public host"
        )
    return str(subject)


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
