"""The `/push` blueprint: who, what, store, answer."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Response, current_app, request, send_from_directory
from flask_smorest import Blueprint as SmorestBlueprint
from webargs.flaskparser import abort

from . import errors, jobs, outbox, subscriptions, vapid
from .authentication import require_own_site, require_token, require_user
from .jobs import Everyone
from .json_body import JSONBodyParser, require_json
from .messages import Message
from .models import MAX_ID
from .outbox import Status, UnknownMessageError
from .schemas import (
    IdempotencyKeySchema,
    MessageSchema,
    PublicKeySchema,
    QueuedSchema,
    SavedSchema,
    StatusSchema,
    SubscriptionSchema,
    SubscriptionsSchema,
    UnsubscriptionSchema,
)
from .subscriptions import EndpointTooLongError, Subscription

STATIC = Path(__file__).parent / "static"
FOR_SERVICES = {"push.create_message", "push.get_message"}
PUBLIC = {"push.vapid_public_key", "push.client", "push.service_worker"}


class Blueprint(SmorestBlueprint):  # type: ignore[misc]  # flask-smorest ships no types
    """flask-smorest's blueprint, reading JSON by our rules."""

    ARGUMENTS_PARSER = JSONBodyParser()


blueprint = Blueprint("push", __name__, url_prefix="/push", description="Web Push subscriptions")
errors.register(blueprint)


def described(*statuses: int, security: str = "session") -> dict[str, Any]:
    """Return what the description of a route says of its error answers, and of who may call it."""
    responses = {status: HTTPStatus(status).name for status in statuses}
    return {"security": [{security: []}], "responses": responses}


ITS_STATUS = {
    "operationRef": "#/paths/~1push~1messages~1{id}/get",
    "parameters": {"id": "$response.body#/id"},
}


@blueprint.before_app_request
def answer_routing_error() -> Response | None:
    """Give 404 and 405 below our prefix our shape, also inside somebody else's application."""
    return errors.answer_routing_error(f"{blueprint.url_prefix}/")


@blueprint.before_request
def judge() -> None:
    """Refuse in this order: from another site, not JSON, not signed in."""
    require_own_site()
    require_json()
    if request.endpoint in FOR_SERVICES:
        require_token()
    elif request.endpoint not in PUBLIC and request.method != "OPTIONS":
        require_user()


@blueprint.after_request
def limit_caching(response: Response) -> Response:
    """Let no cache give one user's answer to another, or one origin's to another."""
    if request.endpoint not in PUBLIC:
        response.headers["Cache-Control"] = "no-store"
    if current_app.config["PUSH_ALLOWED_ORIGINS"]:
        response.vary.add("Origin")
    return response


@blueprint.post("/subscribe")
@blueprint.doc(**described(400, 401, 403, 413, 415, 503))
@blueprint.arguments(SubscriptionSchema())
@blueprint.response(200, SavedSchema)
def subscribe(subscription: Subscription) -> dict[str, int]:
    """Keep the browser's subscription for the user who is signed in."""
    try:
        return {"count": subscriptions.save(require_user(), subscription)}
    except EndpointTooLongError:
        tell = ["Is too long to be kept together with the user's id."]
        abort(422, errors={"json": {"endpoint": tell}})


@blueprint.post("/unsubscribe")
@blueprint.doc(**described(400, 401, 403, 413, 415, 503))
@blueprint.arguments(UnsubscriptionSchema())
@blueprint.response(200, SavedSchema)
def unsubscribe(body: dict[str, str]) -> dict[str, int]:
    """Forget the user's subscription with this endpoint."""
    return {"count": subscriptions.remove(require_user(), body["endpoint"])}


@blueprint.get("/subscriptions")
@blueprint.doc(**described(401, 503))
@blueprint.response(200, SubscriptionsSchema)
def list_subscriptions() -> dict[str, Any]:
    """List the browsers of the user who is signed in."""
    kept = subscriptions.list_of(require_user())
    return {"subscriptions": kept, "count": len(kept)}


@blueprint.delete(f"/subscriptions/<int(max={MAX_ID}):id>")
@blueprint.doc(**described(401, 403, 404, 503))
@blueprint.response(204)
def delete_subscription(id: int) -> None:
    """Forget one of the user's own browsers."""
    if not subscriptions.remove_by_id(require_user(), id):
        errors.refuse(404, "You have no subscription with this id.")


@blueprint.post("/messages")
@blueprint.doc(**described(400, 401, 403, 413, 415, 503, security="token"))
@blueprint.doc(responses={202: {"links": {"status": ITS_STATUS}}})
@blueprint.arguments(MessageSchema())
@blueprint.arguments(IdempotencyKeySchema(), location="headers")
@blueprint.response(202, QueuedSchema)
def create_message(body: tuple[Message, str | Everyone], headers: dict[str, str | None]) -> dict[str, int]:
    """Send a message to one user or to everyone."""
    message, to = body
    return {"id": jobs.send(message, to=to, idempotency_key=headers["idempotency_key"])}


@blueprint.get(f"/messages/<int(max={MAX_ID}):id>")
@blueprint.doc(**described(401, 404, 503, security="token"))
@blueprint.response(200, StatusSchema)
def get_message(id: int) -> Status:
    """Tell how far a message has got."""
    try:
        return outbox.status(id)
    except UnknownMessageError:
        errors.refuse(404, "There is no message with this id.")


@blueprint.get("/vapid-public-key")
@blueprint.response(200, PublicKeySchema)
def vapid_public_key() -> dict[str, str]:
    """Tell the key that browsers subscribe with."""
    return {"public_key": vapid.public_key()}


@blueprint.get("/client.js")
@blueprint.response(200, {"type": "string"}, content_type="text/javascript")
def client() -> Response:
    """Serve the ES module that subscribes and unsubscribes a page's browser."""
    return send_from_directory(STATIC, "client.js", mimetype="text/javascript")


@blueprint.get("/service-worker.js")
@blueprint.response(200, {"type": "string"}, content_type="text/javascript")
def service_worker() -> Response:
    """Serve the worker that shows push messages, for the whole site."""
    response = send_from_directory(STATIC, "service-worker.js", mimetype="text/javascript")
    response.headers["Service-Worker-Allowed"] = "/"
    return response
