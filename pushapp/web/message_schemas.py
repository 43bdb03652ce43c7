"""Schemas of the messages API; other than those of browsers, its requests have no unknown members."""

from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate, validates_schema

from ..channels import Channel
from ..models import MAX_CHANNEL_LENGTH, MAX_ID, MAX_USER_ID_LENGTH, normalize_user_id
from ..sending.audience import EVERYONE, MAX_USERS, Device, To
from ..setting_checks import CHANNEL_NAME
from ..webpush.message import NOTIFICATION_MEMBERS, Message, MessageError, Urgency
from ..webpush.message_checks import DIRECTIONS, MAX_SAFE_INTEGER, MAX_TIMESTAMP, MAX_VIBRATION
from .fields import Digits, StrictBoolean, StrictInteger, Timestamp

IDEMPOTENCY_KEY = "Idempotency-Key"
STATES = ("scheduled", "queued", "sending", "done", "cancelled")
MAX_PAGE = 100  # messages
OPTIONS = ("app_badge", "ttl", "urgency", "topic")
# No format: browsers accept URLs that RFC 3986 does not.
PATH_OR_URL = {"description": "a path, or an http or https URL"}
USER_ID = {"minLength": 1, "maxLength": MAX_USER_ID_LENGTH, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}
MILLISECONDS = {"type": "integer", "minimum": 0, "maximum": MAX_VIBRATION}
VIBRATE = {
    "description": "milliseconds",
    "oneOf": [MILLISECONDS, {"type": "array", "items": MILLISECONDS}],
}


class _Request(Schema):
    class Meta:
        """Reject unknown members: they would be lost."""

        unknown = RAISE


class ActionSchema(_Request):
    """A button of a notification."""

    action = fields.String(required=True, metadata={"minLength": 1})
    title = fields.String(required=True, metadata={"minLength": 1})
    navigate = fields.String(metadata=PATH_OR_URL)
    icon = fields.String(metadata=PATH_OR_URL)


class NotificationSchema(_Request):
    """A notification (Notifications API, section 2; Declarative Web Push)."""

    title = fields.String(required=True, metadata={"minLength": 1})
    body = fields.String()
    navigate = fields.String(metadata=PATH_OR_URL)
    icon = fields.String(metadata=PATH_OR_URL)
    image = fields.String(metadata=PATH_OR_URL)
    badge = fields.String(metadata=PATH_OR_URL)
    tag = fields.String()
    actions = fields.List(fields.Nested(ActionSchema))
    data = fields.Raw(allow_none=True, metadata={"description": "any JSON"})
    lang = fields.String()
    dir = fields.String(validate=validate.OneOf(DIRECTIONS))
    silent = StrictBoolean(metadata={"description": "without vibrate"})
    renotify = StrictBoolean(metadata={"description": "needs a tag"})
    require_interaction = StrictBoolean(data_key="requireInteraction")
    timestamp = StrictInteger(
        validate=validate.Range(0, MAX_TIMESTAMP), metadata={"description": "milliseconds since 1970"}
    )
    vibrate = fields.Raw(metadata=VIBRATE)


def _validate_user_id(user_id: str) -> None:
    if normalize_user_id(user_id) is None:
        raise ValidationError(f"Must be 1 to {MAX_USER_ID_LENGTH} characters, and no control characters.")


def _user_ids(**options: Any) -> fields.List[str]:
    user_id = fields.String(validate=_validate_user_id, metadata=USER_ID)
    return fields.List(user_id, validate=validate.Length(max=MAX_USERS), **options)


class AudienceSchema(_Request):
    """Whom a message is to: exactly one of these."""

    user_id = fields.String(validate=_validate_user_id, metadata=USER_ID)
    user_ids = _user_ids()
    channel = fields.String(
        validate=validate.Regexp(CHANNEL_NAME.pattern + r"\Z"),
        metadata={"pattern": f"^{CHANNEL_NAME.pattern}$", "maxLength": MAX_CHANNEL_LENGTH},
    )
    subscription_id = StrictInteger(validate=validate.Range(0, MAX_ID))
    everyone = StrictBoolean(validate=validate.Equal(True), metadata={"enum": [True]})

    @validates_schema
    def require_one(self, data: dict[str, Any], **_options: Any) -> None:
        """Reject none of them, and several."""
        if len(data) != 1:
            raise ValidationError(f"Must have exactly one of {', '.join(self.fields)}.")

    @post_load
    def make_audience(self, data: dict[str, Any], **_options: Any) -> To:
        """Return the audience as `send` takes it."""
        if "channel" in data:
            return Channel(data["channel"])
        if "subscription_id" in data:
            return Device(data["subscription_id"])
        if "everyone" in data:
            return EVERYONE
        users: To = data["user_ids"] if "user_ids" in data else data["user_id"]
        return users


class ExcludeSchema(_Request):
    """Users who do not get the message."""

    user_ids = _user_ids(required=True)


class MessageSchema(_Request):
    """A message and its audience."""

    to = fields.Nested(
        AudienceSchema,
        required=True,
        metadata={
            "oneOf": [
                {"required": [name]}
                for name in ("user_id", "user_ids", "channel", "subscription_id", "everyone")
            ]
        },
    )
    excluded = fields.Nested(ExcludeSchema, data_key="exclude")
    notification = fields.Nested(NotificationSchema, required=True)
    app_badge = StrictInteger(
        validate=validate.Range(0, MAX_SAFE_INTEGER), metadata={"description": "0 removes the badge"}
    )
    ttl = StrictInteger(validate=validate.Range(0, 2**31), metadata={"description": "seconds"})
    urgency = fields.String(validate=validate.OneOf(list(Urgency)))
    topic = fields.String(metadata={"pattern": "^[A-Za-z0-9_-]{1,32}$", "description": "base64url"})
    send_at = Timestamp(metadata={"description": "when to send it, at most a year ahead"})

    @post_load
    def make_arguments(self, data: dict[str, Any], **_options: Any) -> dict[str, Any]:
        """Return the arguments of `send`."""
        options = {name: data[name] for name in OPTIONS if name in data}
        try:
            message = Message(**data["notification"], **options)
        except MessageError as error:
            raise ValidationError(errors_of(error)) from None
        exclude = data.get("excluded", {}).get("user_ids", ())
        return {"message": message, "to": data["to"], "exclude": exclude, "at": data.get("send_at")}


def errors_of(error: MessageError) -> dict[str, Any]:
    """Return the error of a field under the name of its member."""
    if error.field in NOTIFICATION_MEMBERS:
        return {"notification": {NOTIFICATION_MEMBERS[error.field]: [error.reason]}}
    return {{"at": "send_at"}.get(error.field, error.field): [error.reason]}


class IdempotencyKeySchema(Schema):
    """Idempotency-Key header: a token's requests with the same key are sent once."""

    idempotency_key = fields.String(
        data_key=IDEMPOTENCY_KEY, validate=validate.Regexp(r"[ -~]{1,255}\Z"), load_default=None
    )


class MessageCreatedSchema(Schema):
    """The id of a new message."""

    id = fields.Integer(required=True)


class MessageStatusSchema(MessageCreatedSchema):
    """Delivery status of a message."""

    state = fields.String(required=True, validate=validate.OneOf(STATES))
    created_at = fields.DateTime(required=True)
    send_at = fields.DateTime(required=True, allow_none=True)
    recipients = fields.Integer(required=True)
    sent = fields.Integer(required=True)
    gone = fields.Integer(required=True)
    failed = fields.Integer(required=True)
    expired = fields.Integer(required=True)
    replaced = fields.Integer(required=True)
    cancelled = fields.Integer(required=True)
    shown = fields.Integer(required=True)
    clicked = fields.Integer(required=True)


class MessagesSchema(Schema):
    """Delivery status of messages, newest first."""

    messages = fields.List(fields.Nested(MessageStatusSchema), required=True)


class PageSchema(_Request):
    """Which messages: at most `limit`, those with ids below `before`."""

    before = Digits(validate=validate.Range(1, MAX_ID))
    limit = Digits(validate=validate.Range(1, MAX_PAGE), load_default=20)
