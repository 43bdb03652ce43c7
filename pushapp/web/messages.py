"""The messages API, for services with a token."""

import hashlib
from typing import Any, NoReturn

from marshmallow import RAISE

from ..sending import outbox
from ..sending.status import MessageNotFoundError, Status, status, statuses
from ..webpush.message import MessageError
from . import errors
from .auth import bearer_token
from .message_schemas import (
    IDEMPOTENCY_KEY,
    IdempotencyKeySchema,
    MessageCreatedSchema,
    MessageSchema,
    MessagesSchema,
    MessageStatusSchema,
    PageSchema,
    errors_of,
)
from .routes import blueprint, openapi_docs

MESSAGE = "/messages/<int:message_id>"
ID_PARAMETER = {"message_id": "$response.body#/id"}
LINKS = {
    "status": {"operationId": "get_message", "parameters": ID_PARAMETER},
    "cancel": {"operationId": "cancel_message", "parameters": ID_PARAMETER},
}


@blueprint.post("/messages")
@blueprint.doc(**openapi_docs(400, 401, 403, 413, 415, 503, security="token"))
@blueprint.doc(responses={202: {"links": LINKS}})
@blueprint.arguments(MessageSchema())
@blueprint.arguments(IdempotencyKeySchema(), location="headers")
@blueprint.response(202, MessageCreatedSchema)
def create_message(arguments: dict[str, Any], headers: dict[str, str | None]) -> dict[str, int]:
    """Send a message to users, to a channel, to one device or to everyone."""
    key = headers["idempotency_key"]
    try:
        return {"id": outbox.send(**arguments, idempotency_key=key and _of_token(key))}
    except MessageError as error:
        if error.field == "idempotency_key":
            errors.abort_with(422, {"headers": {IDEMPOTENCY_KEY: [error.reason]}})
        errors.abort_with(422, {"json": errors_of(error)})


@blueprint.get("/messages")
@blueprint.doc(**openapi_docs(401, 503, security="token"))
@blueprint.arguments(PageSchema(), location="query", unknown=RAISE)
@blueprint.response(200, MessagesSchema)
def list_messages(page: dict[str, int]) -> dict[str, list[Status]]:
    """List messages, newest first."""
    return {"messages": statuses(**page)}


@blueprint.get(MESSAGE)
@blueprint.doc(operationId="get_message", **openapi_docs(401, 404, 503, security="token"))
@blueprint.response(200, MessageStatusSchema)
def get_message(message_id: int) -> Status:
    """Get a message's delivery status."""
    try:
        return status(message_id)
    except MessageNotFoundError:
        _abort_not_found()


@blueprint.delete(MESSAGE)
@blueprint.doc(operationId="cancel_message", **openapi_docs(401, 403, 404, 409, 503, security="token"))
@blueprint.response(200, MessageStatusSchema)
def cancel_message(message_id: int) -> Status:
    """Cancel a message: what has not begun is not sent."""
    try:
        cancelled = outbox.cancel(message_id)
    except MessageNotFoundError:
        _abort_not_found()
    if cancelled.state != "cancelled":
        errors.abort(409, "The message is done: too late to cancel it.")
    return cancelled


def _of_token(key: str) -> str:
    # Two tokens may use the same key.
    return hashlib.sha256(f"{bearer_token()} {key}".encode()).hexdigest()


def _abort_not_found() -> NoReturn:
    errors.abort(404, "There is no message with this id.")
