"""Schemas of the routes of browsers."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from flask import current_app
from marshmallow import (
    EXCLUDE,
    Schema,
    ValidationError,
    fields,
    post_load,
    validate,
    validates,
)

from .. import keys as vapid_keys
from ..models import MAX_LABEL_LENGTH
from ..subscriptions import Subscription
from ..webpush.endpoints import MAX_ENDPOINT_LENGTH, check_endpoint
from .errors import abort
from .fields import P256DH, Auth, StrictInteger

MAX_TIMESTAMP_MS = 253_402_300_799_999  # milliseconds since 1970: the end of the year 9999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _validate_endpoint(endpoint: str) -> None:
    try:
        check_endpoint(endpoint, current_app.config["PUSH_TRUSTED_PUSH_SERVICES"])
    except ValueError as error:
        raise ValidationError(str(error)) from None


def _validate_printable(text: str) -> None:
    if not re.fullmatch("[!-~]*", text):
        raise ValidationError("Must be printable ASCII.")


class BrowserBody(Schema):
    """A body that browsers send."""

    class Meta:
        """Ignore unknown fields: browsers add their own."""

        unknown = EXCLUDE


class KeysSchema(BrowserBody):
    """The encryption keys of a subscription."""

    p256dh = P256DH(required=True, metadata={"format": "p256dh", "description": "65 bytes, base64url"})
    auth = Auth(required=True, metadata={"format": "auth", "description": "16 bytes, base64url"})


def _validate_label(label: str) -> None:
    if not label.strip() or len(label) > MAX_LABEL_LENGTH or not label.isprintable():
        raise ValidationError(f"Must be 1 to {MAX_LABEL_LENGTH} printable characters.")


LABEL = {
    "description": "the browser's name, printable characters",
    "minLength": 1,
    "maxLength": MAX_LABEL_LENGTH,
}


class LabelSchema(BrowserBody):
    """The user's name for a browser."""

    label = fields.String(required=True, validate=_validate_label, metadata=LABEL)


class PushSubscriptionSchema(BrowserBody):
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
    application_server_key = P256DH(
        data_key="applicationServerKey",
        metadata={"format": "p256dh", "description": "the VAPID key it was made with, base64url"},
    )

    @validates("application_server_key")
    def reject_other_key(self, value: str, data_key: str) -> None:
        """Abort with 409 if the subscription was made with an unknown key: the page subscribes again."""
        if value not in vapid_keys.signers().public_keys:
            abort(409, "The subscription has another VAPID key: subscribe again with the current one.")

    @post_load
    def make_subscription(self, data: dict[str, Any], **_options: Any) -> Subscription:
        """Return the loaded fields as a Subscription."""
        expires_at = _EPOCH + timedelta(milliseconds=data["expiration_time"] or 0)
        # A time in the past, of a wrong clock or a push service that sends 0, is unknown.
        known = expires_at if expires_at > datetime.now(UTC) else None
        keys = data["keys"]
        return Subscription(
            endpoint=data["endpoint"],
            p256dh=keys["p256dh"],
            auth=keys["auth"],
            vapid_key=data.get("application_server_key"),
            expires_at=known,
            label=data.get("label"),
        )


class SubscriptionSchema(PushSubscriptionSchema):
    """A `PushSubscription`, and what pushapp's own page adds."""

    label = fields.String(validate=_validate_label, metadata=LABEL)


class RenewalSchema(BrowserBody):
    """A subscription that replaces another one; `auth` of the old one proves that it is the same browser."""

    endpoint = fields.String(
        required=True,
        validate=[validate.Length(max=MAX_ENDPOINT_LENGTH), _validate_printable],
        metadata={"pattern": "^[!-~]*$"},
    )
    auth = Auth(required=True, metadata={"format": "auth", "description": "16 bytes, base64url"})
    subscription = fields.Nested(PushSubscriptionSchema, required=True)


class UnsubscribeSchema(BrowserBody):
    """Any well-formed endpoint: the rules may have changed since it was stored."""

    endpoint = fields.String(
        required=True,
        validate=[validate.Length(max=MAX_ENDPOINT_LENGTH), _validate_printable],
        metadata={"pattern": "^[!-~]*$"},
    )


class SubscriptionCountSchema(Schema):
    """The number of the user's subscriptions."""

    ok = fields.Constant(True, metadata={"type": "boolean"})
    count = fields.Integer(required=True, metadata={"description": "the user's subscriptions"})


class SubscriptionSummarySchema(Schema):
    """A subscription without its keys and the path of its endpoint."""

    id = fields.Integer(required=True)
    label = fields.String(required=True, allow_none=True)
    push_service = fields.Function(
        lambda row: urlsplit(row.endpoint).netloc, metadata={"type": "string", "description": "host"}
    )
    created_at = fields.DateTime(required=True)
    expires_at = fields.DateTime(required=True, allow_none=True)
    last_sent_at = fields.DateTime(required=True, allow_none=True)


class OkSchema(Schema):
    """A response without further values."""

    ok = fields.Constant(True, metadata={"type": "boolean"})


class SubscriptionsSchema(Schema):
    """The user's subscriptions."""

    subscriptions = fields.List(fields.Nested(SubscriptionSummarySchema), required=True)
    count = fields.Integer(required=True)


class ChannelSchema(Schema):
    """A channel, and whether the user has joined it."""

    name = fields.String(required=True)
    joined = fields.Boolean(required=True)


class ChannelsSchema(Schema):
    """The channels that users can join."""

    channels = fields.List(fields.Nested(ChannelSchema), required=True)


class PublicKeySchema(Schema):
    """The application server's public key (RFC 8292, section 3.2)."""

    public_key = fields.String(data_key="publicKey", required=True)
