"""Fields of the schemas: keys of browsers, integers, booleans, times."""

import base64
import binascii
import re
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from marshmallow import ValidationError, fields

_RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})", re.ASCII | re.IGNORECASE
)
MAX_DIGITS = 19  # of an id
_BASE64URL = str.maketrans("+/", "-_")


class Base64URL(fields.String):
    """Bytes as base64url or base64, padded or not; loaded as base64url without padding."""

    length: int

    def _deserialize(self, value: Any, *arguments: Any, **options: Any) -> str:
        text = super()._deserialize(value, *arguments, **options).translate(_BASE64URL)
        bare = text.rstrip("=")
        try:
            if len(text) not in (len(bare), -(-len(bare) // 4) * 4):
                raise ValidationError("Not valid base64url.")
            data = base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise ValidationError("Not valid base64url.") from None
        if len(data) != self.length:
            raise ValidationError(f"Must be {self.length} bytes long.")
        self.check(data)
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    def check(self, data: bytes) -> None:
        """Raise ValidationError when bytes of the right length are invalid."""


class Auth(Base64URL):
    """The authentication secret (RFC 8291, section 3.2)."""

    length = 16


class P256DH(Base64URL):
    """The user agent's public key: an uncompressed point on P-256 (RFC 8291, section 3.1)."""

    length = 65

    def check(self, data: bytes) -> None:
        """Reject a compressed point (X9.62: the first byte is not 4), and one that is not on the curve."""
        try:
            if data[0] != 4:
                raise ValueError
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), data)
        except ValueError:
            raise ValidationError("Not an uncompressed point on P-256.") from None


class StrictInteger(fields.Integer):
    """An integer as in JSON Schema: accepts 1.0, rejects 1.5 and "1"."""

    def __init__(self, **options: Any):
        super().__init__(strict=True, **options)

    def _deserialize(self, value: Any, *arguments: Any, **options: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return super()._deserialize(value, *arguments, **options)


class Digits(fields.Integer):
    """An integer in a query: digits alone, where Python's `int` takes signs, spaces and underscores."""

    def _deserialize(self, value: Any, *arguments: Any, **options: Any) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, *arguments, **options)


class StrictBoolean(fields.Boolean):
    """A boolean as in JSON: rejects 1 and "true"."""

    def _deserialize(self, value: Any, *arguments: Any, **options: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Timestamp(fields.AwareDateTime):
    """A time with an offset (RFC 3339)."""

    def _deserialize(self, value: Any, *arguments: Any, **options: Any) -> datetime:
        try:
            return parse_time(value)
        except ValueError as error:
            raise ValidationError(str(error)) from None


def parse_time(text: object) -> datetime:
    """Return a time with an offset, such as `2030-01-31T09:00:00+01:00`.

    Raises ValueError for anything else (RFC 3339, section 5.6).
    """
    try:
        if isinstance(text, str) and _RFC_3339.fullmatch(text):
            return datetime.fromisoformat(text.upper())
    except ValueError:
        pass
    raise ValueError("Must be a time with an offset, such as 2030-01-31T09:00:00+01:00.")
