"""The routes of browsers: subscriptions, and the files of their pages."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask import Response, request

from .. import keys, renewals, subscriptions
from ..sending import outbox
from ..sending.audience import Device
from ..subscriptions import Subscription
from ..webpush.message import Message
from . import errors
from .auth import require_user
from .message_schemas import MessageCreatedSchema
from .routes import blueprint, openapi_docs
from .schemas import (
    LabelSchema,
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
SUBSCRIPTION = "/subscriptions/<int:subscription_id>"
NO_SUBSCRIPTION = "You have no subscription with this id."


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
    if not subscriptions.has(require_user(), subscription_id):
        errors.abort(404, NO_SUBSCRIPTION)
    return {"id": outbox.send(message, to=Device(subscription_id))}


@blueprint.delete(SUBSCRIPTION)
@blueprint.doc(**openapi_docs(401, 403, 404, 503))
@blueprint.response(204)
def delete_subscription(subscription_id: int) -> None:
    """Delete one of the current user's subscriptions."""
    if not subscriptions.remove_by_id(require_user(), subscription_id):
        errors.abort(404, NO_SUBSCRIPTION)


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
