"""The JSON that browsers and services send, and that we answer."""

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from flask import current_app
from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, validate, validates_schema

from .jobs import EVERYONE, Everyone
from .messages import Message, MessageError, Urgency
from .models import MAX_USER_ID_LENGTH, user_id_of
from .push_services import MAX_ENDPOINT_LENGTH, check_endpoint
from .subscriptions import Subscription

YEAR_9999_ENDS = 253_402_300_799_999  # milliseconds since 1970
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_BASE64URL = str.maketrans("+/", "-_")


class Base64URL(fields.String):
    """Bytes as base64url or base64, padded or not; loaded as base64url without padding."""

    length: int

    def _deserialize(self, value: Any, *arguments: Any, **more: Any) -> str:
        text = super()._deserialize(value, *arguments, **more).translate(_BASE64URL)
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
        """Raise ValidationError when bytes of the right length are wrong all the same."""


class Auth(Base64URL):
    """The authentication secret (RFC 8291, section 3.2)."""

    length = 16


class P256DH(Base64URL):
    """The user agent's public key: an uncompressed point on P-256 (RFC 8291, section 3.1)."""

    length = 65

    def check(self, data: bytes) -> None:
        """Refuse what is not a point, or not uncompressed (X9.62's first byte 4)."""
        try:
            if data[0] != 4:
                raise ValueError
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), data)
        except ValueError:
            raise ValidationError("Not an uncompressed point on P-256.") from None


class WholeNumber(fields.Integer):
    """An integer as JSON Schema has it: 1.0 is one, and 1.5 and "1" are none."""

    def __init__(self, **more: Any):
        super().__init__(strict=True, **more)

    def _deserialize(self, value: Any, *arguments: Any, **more: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return super()._deserialize(value, *arguments, **more)


def _validate_endpoint(endpoint: str) -> None:
    try:
        check_endpoint(endpoint, current_app.config["PUSH_TRUSTED_PUSH_SERVICES"])
    except ValueError as error:
        raise ValidationError(str(error)) from None


class _Body(Schema):
    class Meta:
        """Browsers add members of their own."""

        unknown = EXCLUDE


class KeysSchema(_Body):
    """The keys that a message to this browser is encrypted with."""

    p256dh = P256DH(required=True, metadata={"format": "p256dh", "description": "65 bytes, base64url"})
    auth = Auth(required=True, metadata={"format": "auth", "description": "16 bytes, base64url"})


class SubscriptionSchema(_Body):
    """A `PushSubscription` as its `toJSON()` gives it (Push API, section 8)."""

    endpoint = fields.String(
        required=True,
        validate=_validate_endpoint,
        metadata={"format": "uri", "maxLength": MAX_ENDPOINT_LENGTH, "description": "https, a public host"},
    )
    expiration_time = WholeNumber(
        data_key="expirationTime",
        allow_none=True,
        load_default=None,
        validate=validate.Range(0, YEAR_9999_ENDS),
        metadata={"description": "milliseconds since 1970"},
    )
    keys = fields.Nested(KeysSchema, required=True)

    @post_load
    def make(self, data: dict[str, Any], **_more: Any) -> Subscription:
        """Return the loaded members as a Subscription."""
        milliseconds = data["expiration_time"]
        expires_at = None if milliseconds is None else EPOCH + timedelta(milliseconds=milliseconds)
        return Subscription(data["endpoint"], data["keys"]["p256dh"], data["keys"]["auth"], expires_at)


def _validate_printable(text: str) -> None:
    if not re.fullmatch("[!-~]*", text):
        raise ValidationError("Must be printable ASCII.")


class UnsubscriptionSchema(_Body):
    """The endpoint to forget, whatever its host: which ones are agreed to may have changed."""

    endpoint = fields.String(
        required=True,
        validate=[validate.Length(max=MAX_ENDPOINT_LENGTH), _validate_printable],
        metadata={"pattern": "^[!-~]*$"},
    )


# No format: browsers read more as a URL than RFC 3986 does.
PATH_OR_URL = {"description": "a path, or an http or https URL"}


class ActionSchema(_Body):
    """A button of a notification."""

    action = fields.String(required=True, metadata={"minLength": 1})
    title = fields.String(required=True, metadata={"minLength": 1})
    navigate = fields.String(metadata=PATH_OR_URL)
    icon = fields.String(metadata=PATH_OR_URL)


class NotificationSchema(_Body):
    """What a message shows (Declarative Web Push)."""

    title = fields.String(required=True, metadata={"minLength": 1})
    body = fields.String()
    navigate = fields.String(metadata=PATH_OR_URL)
    icon = fields.String(metadata=PATH_OR_URL)
    tag = fields.String()
    actions = fields.List(fields.Nested(ActionSchema))
    data = fields.Raw(allow_none=True, metadata={"description": "any JSON"})


USER_ID = {"minLength": 1, "maxLength": MAX_USER_ID_LENGTH, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}


def _validate_user_id(user_id: str) -> None:
    if user_id_of(user_id) is None:
        raise ValidationError(f"Must be 1 to {MAX_USER_ID_LENGTH} characters, and no control characters.")


class ToSchema(_Body):
    """Whom a message is for: one of the two."""

    user_id = fields.String(validate=_validate_user_id, metadata=USER_ID)
    everyone = fields.Boolean(truthy={True}, falsy=set(), metadata={"enum": [True]})

    @validates_schema
    def require_one(self, data: dict[str, Any], **_more: Any) -> None:
        """Refuse a message to nobody, and one to a user and everyone."""
        if len(data) != 1:
            raise ValidationError("Must have either user_id or everyone.")


class MessageSchema(_Body):
    """A message, and whom it is for."""

    to = fields.Nested(
        ToSchema, required=True, metadata={"oneOf": [{"required": ["user_id"]}, {"required": ["everyone"]}]}
    )
    notification = fields.Nested(NotificationSchema, required=True)
    ttl = WholeNumber(validate=validate.Range(0, 2**31), metadata={"description": "seconds"})
    urgency = fields.String(validate=validate.OneOf(list(Urgency)))
    topic = fields.String(metadata={"pattern": "^[A-Za-z0-9_-]{1,32}$", "description": "base64url"})

    @post_load
    def make(self, data: dict[str, Any], **_more: Any) -> tuple[Message, str | Everyone]:
        """Return the message, and whom it is for."""
        options = {name: data[name] for name in ("ttl", "urgency", "topic") if name in data}
        try:
            message = Message(**data["notification"], **options)
        except MessageError as error:
            inside = {error.member: [error.text]}
            top_level = error.member in options or error.member == "notification"
            raise ValidationError(inside if top_level else {"notification": inside}) from None
        return message, data["to"].get("user_id", EVERYONE)


class IdempotencyKeySchema(_Body):
    """A repeated request with the same key sends nothing twice."""

    idempotency_key = fields.String(
        data_key="Idempotency-Key", validate=validate.Regexp(r"[ -~]{1,255}\Z"), load_default=None
    )


class QueuedSchema(Schema):
    """The answer to a message."""

    id = fields.Integer(required=True)


class StatusSchema(QueuedSchema):
    """How far a message has got."""

    state = fields.String(required=True, validate=validate.OneOf(["queued", "sending", "done"]))
    recipients = fields.Integer(required=True)
    sent = fields.Integer(required=True)
    gone = fields.Integer(required=True)
    failed = fields.Integer(required=True)


class SavedSchema(Schema):
    """The answer to subscribing and unsubscribing."""

    ok = fields.Constant(True, metadata={"type": "boolean"})
    count = fields.Integer(required=True, metadata={"description": "the user's subscriptions"})


class KeptSubscriptionSchema(Schema):
    """One of the user's browsers, without its keys and without its whole endpoint."""

    id = fields.Integer(required=True)
    push_service = fields.Function(
        lambda row: urlsplit(row.endpoint).netloc, metadata={"type": "string", "description": "host"}
    )
    created_at = fields.DateTime(required=True)
    expires_at = fields.DateTime(required=True, allow_none=True)


class SubscriptionsSchema(Schema):
    """The user's browsers."""

    subscriptions = fields.List(fields.Nested(KeptSubscriptionSchema), required=True)
    count = fields.Integer(required=True)


class PublicKeySchema(Schema):
    """The application server's public key (RFC 8292, section 3.2)."""

    public_key = fields.String(data_key="publicKey", required=True)
