"""The HTTP API under /push."""

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask import Response, current_app, request
from flask_smorest import Blueprint as SmorestBlueprint

from .. import keys, renewals, subscriptions
from ..models import MAX_ID
from ..sending import outbox
from ..sending.audience import Everyone
from ..sending.outbox import MessageNotFoundError, Status
from ..subscriptions import Subscription
from ..webpush.message import Message
from . import errors
from .auth import reject_cross_site, require_token, require_user
from .parsing import JSONBodyParser, require_json
from .schemas import (
    IdempotencyKeySchema,
    LabelSchema,
    MessageCreatedSchema,
    MessageSchema,
    MessageStatusSchema,
    OkSchema,
    PublicKeySchema,
    RenewalSchema,
    SubscriptionCountSchema,
    SubscriptionSchema,
    SubscriptionsSchema,
    SubscriptionSummarySchema,
    UnsubscribeSchema,
)

STATIC = Path(__file__).parent.parent / "static"
TOKEN_ENDPOINTS = {"pushapp.create_message", "pushapp.get_message"}
PUBLIC_ENDPOINTS = {
    "pushapp.client",
    "pushapp.create_receipt",
    "pushapp.renew",
    "pushapp.service_worker",
    "pushapp.vapid_public_key",
}


class Blueprint(SmorestBlueprint):  # type: ignore[misc]  # flask-smorest has no types
    """flask-smorest's blueprint with the strict JSON parser."""

    ARGUMENTS_PARSER = JSONBodyParser()


blueprint = Blueprint("pushapp", __name__, url_prefix="/push", description="Web Push subscriptions")
errors.register(blueprint)


def openapi_docs(*statuses: int, security: str | None = "session") -> dict[str, Any]:
    """Return the OpenAPI error responses and security of a route."""
    responses = {status: HTTPStatus(status).name for status in statuses}
    return {"security": [{security: []}] if security else [], "responses": responses}


SUBSCRIPTION = "/subscriptions/<int:subscription_id>"
NO_SUBSCRIPTION = "You have no subscription with this id."
MESSAGE_STATUS_LINK = {
    "operationId": "get_message",
    "parameters": {"message_id": "$response.body#/id"},
}


@blueprint.before_app_request
def handle_routing_error() -> Response | None:
    """Return JSON 404 and 405 under our prefix, also in a host application."""
    return errors.handle_routing_error(f"{current_app.extensions['push_url_prefix']}/")


@blueprint.before_request
def authorize_request() -> None:
    """Reject, in order: cross-site requests, bodies that are not JSON, unauthenticated requests."""
    reject_cross_site()
    require_json()
    if request.endpoint in TOKEN_ENDPOINTS:
        require_token()
    elif request.endpoint not in PUBLIC_ENDPOINTS and request.method != "OPTIONS":
        require_user()
    if any(isinstance(value, int) and value > MAX_ID for value in (request.view_args or {}).values()):
        errors.abort(404, "There is no such id.")


@blueprint.after_request
def limit_caching(response: Response) -> Response:
    """Prevent shared caching."""
    if request.endpoint not in PUBLIC_ENDPOINTS:
        response.headers["Cache-Control"] = "no-store"
    if current_app.config["PUSH_ALLOWED_ORIGINS"]:
        response.vary.add("Origin")
    return response


@blueprint.post("/subscribe")
@blueprint.doc(**openapi_docs(400, 401, 403, 409, 413, 415, 503))
@blueprint.arguments(SubscriptionSchema())
@blueprint.response(200, SubscriptionCountSchema)
def subscribe(subscription: Subscription) -> dict[str, int]:
    """Store the current user's subscription."""
    return {"count": subscriptions.save(require_user(), subscription)}


@blueprint.post("/renew")
@blueprint.doc(**openapi_docs(400, 403, 404, 413, 415, 503, security=None))
@blueprint.arguments(RenewalSchema())
@blueprint.response(200, OkSchema)
def renew(body: dict[str, Any]) -> dict[str, Any]:
    """Replace a subscription by the one that the same browser has now."""
    if not renewals.renew(body["endpoint"], body["auth"], body["subscription"]):
        errors.abort(404, "There is no subscription with this endpoint and auth.")
    return {}


@blueprint.post("/unsubscribe")
@blueprint.doc(**openapi_docs(400, 401, 403, 413, 415, 503))
@blueprint.arguments(UnsubscribeSchema())
@blueprint.response(200, SubscriptionCountSchema)
def unsubscribe(body: dict[str, str]) -> dict[str, int]:
    """Delete the current user's subscription with this endpoint."""
    return {"count": subscriptions.remove(require_user(), body["endpoint"])}


@blueprint.get("/subscriptions")
@blueprint.doc(**openapi_docs(401, 503))
@blueprint.response(200, SubscriptionsSchema)
def list_subscriptions() -> dict[str, Any]:
    """List the current user's subscriptions."""
    stored = subscriptions.list_for(require_user())
    return {"subscriptions": stored, "count": len(stored)}


@blueprint.patch(SUBSCRIPTION)
@blueprint.doc(**openapi_docs(400, 401, 403, 404, 413, 415, 503))
@blueprint.arguments(LabelSchema())
@blueprint.response(200, SubscriptionSummarySchema)
def label_subscription(body: dict[str, str], subscription_id: int) -> Any:
    """Set the label of one of the current user's subscriptions."""
    updated = subscriptions.set_label(require_user(), subscription_id, body["label"])
    return updated or errors.abort(404, NO_SUBSCRIPTION)


@blueprint.post(f"{SUBSCRIPTION}/test")
@blueprint.doc(**openapi_docs(401, 403, 404, 503))
@blueprint.response(202, MessageCreatedSchema)
def test_subscription(subscription_id: int) -> dict[str, int]:
    """Send a test message to one of the current user's subscriptions."""
    message = Message(title="Test notification", body="Notifications work on this device.", ttl=60)
    message_id = outbox.send_to_subscription(message, require_user(), subscription_id)
    return {"id": message_id or errors.abort(404, NO_SUBSCRIPTION)}


@blueprint.delete(SUBSCRIPTION)
@blueprint.doc(**openapi_docs(401, 403, 404, 503))
@blueprint.response(204)
def delete_subscription(subscription_id: int) -> None:
    """Delete one of the current user's subscriptions."""
    if not subscriptions.remove_by_id(require_user(), subscription_id):
        errors.abort(404, NO_SUBSCRIPTION)


@blueprint.post("/messages")
@blueprint.doc(**openapi_docs(400, 401, 403, 413, 415, 503, security="token"))
@blueprint.doc(responses={202: {"links": {"status": MESSAGE_STATUS_LINK}}})
@blueprint.arguments(MessageSchema())
@blueprint.arguments(IdempotencyKeySchema(), location="headers")
@blueprint.response(202, MessageCreatedSchema)
def create_message(body: tuple[Message, str | Everyone], headers: dict[str, str | None]) -> dict[str, int]:
    """Send a message to one user or to everyone."""
    message, to = body
    return {"id": outbox.send(message, to=to, idempotency_key=headers["idempotency_key"])}


@blueprint.get("/messages/<int:message_id>")
@blueprint.doc(operationId="get_message", **openapi_docs(401, 404, 503, security="token"))
@blueprint.response(200, MessageStatusSchema)
def get_message(message_id: int) -> Status:
    """Get a message's delivery status."""
    try:
        return outbox.status(message_id)
    except MessageNotFoundError:
        errors.abort(404, "There is no message with this id.")


@blueprint.get("/vapid-public-key")
@blueprint.response(200, PublicKeySchema)
def vapid_public_key() -> dict[str, str]:
    """Get the VAPID public key."""
    return {"public_key": keys.signers().public_key}


@blueprint.get("/client.js")
@blueprint.response(200, {"type": "string"}, content_type="text/javascript")
def client() -> Response:
    """Serve the ES module for the site's pages, with the current VAPID key."""
    key = json.dumps(keys.signers().public_key)
    return _script((STATIC / "client.js").read_text().replace('KEY = ""', f"KEY = {key}"))


@blueprint.get("/service-worker.js")
@blueprint.response(200, {"type": "string"}, content_type="text/javascript")
def service_worker() -> Response:
    """Serve the service worker, with the address of these routes."""
    path = request.root_path + request.path
    prefix = json.dumps(quote(path.removesuffix("service-worker.js"), safe="/!$&'()*+,;=:@~"))
    return _script((STATIC / "service-worker.js").read_text().replace('"/push/"', prefix))


def _script(content: str) -> Response:
    response = Response(content, mimetype="text/javascript")
    # Browsers ask each time, whatever the host's SEND_FILE_MAX_AGE_DEFAULT is.
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response
