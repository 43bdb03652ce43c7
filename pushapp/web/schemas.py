"""Request and response schemas."""

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from flask import current_app
from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, validate, validates_schema

from ..models import MAX_USER_ID_LENGTH, normalize_user_id
from ..sending.audience import EVERYONE, Everyone
from ..subscriptions import Subscription
from ..webpush.endpoints import MAX_ENDPOINT_LENGTH, check_endpoint
from ..webpush.message import Message, MessageError, Urgency

MAX_TIMESTAMP_MS = 253_402_300_799_999  # milliseconds since 1970: the end of the year 9999
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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


def _validate_endpoint(endpoint: str) -> None:
    try:
        check_endpoint(endpoint, current_app.config["PUSH_TRUSTED_PUSH_SERVICES"])
    except ValueError as error:
        raise ValidationError(str(error)) from None


class _Body(Schema):
    class Meta:
        """Ignore unknown fields: browsers add their own."""

        unknown = EXCLUDE


class KeysSchema(_Body):
    """The encryption keys of a subscription."""

    p256dh = P256DH(required=True, metadata={"format": "p256dh", "description": "65 bytes, base64url"})
    auth = Auth(required=True, metadata={"format": "auth", "description": "16 bytes, base64url"})


class SubscriptionSchema(_Body):
    """A `PushSubscription` as its `toJSON()` gives it (Push API, section 8)."""

    endpoint = fields.String(
        required=True,
        validate=_validate_endpoint,
        metadata={"format": "uri", "maxLength": MAX_ENDPOINT_LENGTH, "description": "https, a public host"},
    )
    expiration_time = StrictInteger(
        data_key="expirationTime",
        allow_none=True,
        load_default=None,
        validate=validate.Range(0, MAX_TIMESTAMP_MS),
        metadata={"description": "milliseconds since 1970"},
    )
    keys = fields.Nested(KeysSchema, required=True)

    @post_load
    def make_subscription(self, data: dict[str, Any], **_options: Any) -> Subscription:
        """Return the loaded fields as a Subscription."""
        milliseconds = data["expiration_time"]
        expires_at = None if milliseconds is None else EPOCH + timedelta(milliseconds=milliseconds)
        return Subscription(data["endpoint"], data["keys"]["p256dh"], data["keys"]["auth"], expires_at)


def _validate_printable(text: str) -> None:
    if not re.fullmatch("[!-~]*", text):
        raise ValidationError("Must be printable ASCII.")


class UnsubscribeSchema(_Body):
    """Any well-formed endpoint: the rules may have changed since it was stored."""

    endpoint = fields.String(
        required=True,
        validate=[validate.Length(max=MAX_ENDPOINT_LENGTH), _validate_printable],
        metadata={"pattern": "^[!-~]*$"},
    )


# No format: browsers accept URLs that RFC 3986 does not.
PATH_OR_URL = {"description": "a path, or an http or https URL"}


class ActionSchema(_Body):
    """A button of a notification."""

    action = fields.String(required=True, metadata={"minLength": 1})
    title = fields.String(required=True, metadata={"minLength": 1})
    navigate = fields.String(metadata=PATH_OR_URL)
    icon = fields.String(metadata=PATH_OR_URL)


class NotificationSchema(_Body):
    """A notification (Declarative Web Push)."""

    title = fields.String(required=True, metadata={"minLength": 1})
    body = fields.String()
    navigate = fields.String(metadata=PATH_OR_URL)
    icon = fields.String(metadata=PATH_OR_URL)
    tag = fields.String()
    actions = fields.List(fields.Nested(ActionSchema))
    data = fields.Raw(allow_none=True, metadata={"description": "any JSON"})


USER_ID = {"minLength": 1, "maxLength": MAX_USER_ID_LENGTH, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}


def _validate_user_id(user_id: str) -> None:
    if normalize_user_id(user_id) is None:
        raise ValidationError(f"Must be 1 to {MAX_USER_ID_LENGTH} characters, and no control characters.")


class RecipientSchema(_Body):
    """The recipient of a message: exactly one of user_id and everyone."""

    user_id = fields.String(validate=_validate_user_id, metadata=USER_ID)
    everyone = fields.Boolean(truthy={True}, falsy=set(), metadata={"enum": [True]})

    @validates_schema
    def require_one(self, data: dict[str, Any], **_options: Any) -> None:
        """Reject no recipient, and both."""
        if len(data) != 1:
            raise ValidationError("Must have either user_id or everyone.")


class MessageSchema(_Body):
    """A message and its recipient."""

    to = fields.Nested(
        RecipientSchema,
        required=True,
        metadata={"oneOf": [{"required": ["user_id"]}, {"required": ["everyone"]}]},
    )
    notification = fields.Nested(NotificationSchema, required=True)
    ttl = StrictInteger(validate=validate.Range(0, 2**31), metadata={"description": "seconds"})
    urgency = fields.String(validate=validate.OneOf(list(Urgency)))
    topic = fields.String(metadata={"pattern": "^[A-Za-z0-9_-]{1,32}$", "description": "base64url"})

    @post_load
    def make_message(self, data: dict[str, Any], **_options: Any) -> tuple[Message, str | Everyone]:
        """Return the message and its recipient."""
        options = {name: data[name] for name in ("ttl", "urgency", "topic") if name in data}
        try:
            message = Message(**data["notification"], **options)
        except MessageError as error:
            field_errors = {error.field: [error.reason]}
            is_top_level = error.field in options or error.field == "notification"
            raise ValidationError(field_errors if is_top_level else {"notification": field_errors}) from None
        return message, data["to"].get("user_id", EVERYONE)


class IdempotencyKeySchema(_Body):
    """Idempotency-Key header: a request with the same key is sent once."""

    idempotency_key = fields.String(
        data_key="Idempotency-Key", validate=validate.Regexp(r"[ -~]{1,255}\Z"), load_default=None
    )


class MessageCreatedSchema(Schema):
    """The id of a new message."""

    id = fields.Integer(required=True)


class MessageStatusSchema(MessageCreatedSchema):
    """Delivery status of a message."""

    state = fields.String(required=True, validate=validate.OneOf(["queued", "sending", "done"]))
    recipients = fields.Integer(required=True)
    sent = fields.Integer(required=True)
    gone = fields.Integer(required=True)
    failed = fields.Integer(required=True)


class SubscriptionCountSchema(Schema):
    """The number of the user's subscriptions."""

    ok = fields.Constant(True, metadata={"type": "boolean"})
    count = fields.Integer(required=True, metadata={"description": "the user's subscriptions"})


class SubscriptionSummarySchema(Schema):
    """A subscription without its keys and the path of its endpoint."""

    id = fields.Integer(required=True)
    push_service = fields.Function(
        lambda row: urlsplit(row.endpoint).netloc, metadata={"type": "string", "description": "host"}
    )
    created_at = fields.DateTime(required=True)
    expires_at = fields.DateTime(required=True, allow_none=True)


class SubscriptionsSchema(Schema):
    """The user's subscriptions."""

    subscriptions = fields.List(fields.Nested(SubscriptionSummarySchema), required=True)
    count = fields.Integer(required=True)


class PublicKeySchema(Schema):
    """The application server's public key (RFC 8292, section 3.2)."""

    public_key = fields.String(data_key="publicKey", required=True)
