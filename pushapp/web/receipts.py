"""POST /push/receipts: what a browser did with a message."""

from typing import Any

from flask import current_app, request
from marshmallow import fields, validate

from ..sending import receipts
from .errors import abort
from .routes import blueprint, openapi_docs
from .schemas import BrowserBody


class ReceiptSchema(BrowserBody):
    """An event of a notification, with the message's token instead of a session."""

    token = fields.String(required=True, validate=validate.Length(1, 100))
    event = fields.String(required=True, validate=validate.OneOf(receipts.EVENTS))
    action = fields.String(
        allow_none=True,
        load_default=None,
        validate=validate.Regexp(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,255}\Z"),
        metadata={"description": "the button that was clicked"},
    )


@blueprint.before_request
def reject_while_off() -> None:
    """Abort with 404 while receipts are off."""
    if request.endpoint == "pushapp.create_receipt" and not current_app.config["PUSH_RECEIPTS"]:
        abort(404, "Receipts are off: the setting PUSH_RECEIPTS turns them on.")


@blueprint.post("/receipts")
@blueprint.doc(**openapi_docs(400, 403, 404, 413, 415, 503, security=None))
@blueprint.arguments(ReceiptSchema())
@blueprint.response(204)
def create_receipt(body: dict[str, Any]) -> None:
    """Record that a notification was shown, clicked or closed; each counts once a device."""
    try:
        message_id, subscription_id = receipts.tokens().verify(body["token"])
    except ValueError:
        abort(403, "The token is not one of ours.")
    receipts.record(message_id, subscription_id, body["event"], body["action"] or None)
