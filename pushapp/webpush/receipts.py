"""Receipts: tokens by which a browser reports what it did with a message."""

import base64
import hmac
import struct
from collections.abc import Sequence

from .message import PADDED_LENGTHS

MAC_LENGTH = 16  # bytes of HMAC-SHA256
PURPOSE = b"pushapp receipt"  # no other signature with the same secret is a token

_IDS = struct.Struct(">QQ")


class Tokens:
    """Creates and verifies tokens, each for one message and one subscription.

    `secrets` begins with the current one, which signs; tokens signed with the older ones are accepted.
    """

    def __init__(self, secrets: Sequence[str | bytes]):
        encoded = (secret.encode() if isinstance(secret, str) else secret for secret in secrets)
        self._keys = [hmac.digest(secret, PURPOSE, "sha256") for secret in encoded]

    def create(self, message_id: int, subscription_id: int) -> str:
        """Return the token, 43 characters of base64url."""
        ids = _IDS.pack(message_id, subscription_id)
        return _encode(ids + self._sign(self._keys[0], ids))

    def verify(self, token: str) -> tuple[int, int]:
        """Return the ids of the message and the subscription that a token was created for.

        Raises ValueError if it is not one of ours.
        """
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        ids, mac = data[: _IDS.size], data[_IDS.size :]
        matches = [hmac.compare_digest(mac, self._sign(key, ids)) for key in self._keys]
        if not any(matches) or _encode(data) != token:  # base64 has several forms of the same bytes
            raise ValueError("not a token of ours")
        message_id, subscription_id = _IDS.unpack(ids)
        return message_id, subscription_id

    @staticmethod
    def _sign(key: bytes, ids: bytes) -> bytes:
        return hmac.digest(key, ids, "sha256")[:MAC_LENGTH]


def add_receipt(payload: bytes, token: str) -> bytes:
    """Return a payload with a token as its member `receipt`, padded again.

    Without space for it, the payload itself: that a message is shown is worth more than its receipt.
    """
    document = payload.rstrip(b" ").removesuffix(b"}") + f',"receipt":"{token}"}}'.encode()
    return next((document.ljust(length) for length in PADDED_LENGTHS if len(document) <= length), payload)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
