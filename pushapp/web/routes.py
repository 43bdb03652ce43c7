"""The blueprint of all routes under /push, and what applies to each of them."""

from http import HTTPStatus
from typing import Any

from flask import Response, current_app, request

from ..models import MAX_ID
from . import errors
from .auth import reject_cross_site, require_token, require_user
from .blueprint import Blueprint
from .parsing import require_json

TOKEN_ENDPOINTS = {
    "pushapp.create_message",
    "pushapp.list_messages",
    "pushapp.get_message",
    "pushapp.cancel_message",
}
PUBLIC_ENDPOINTS = {
    "pushapp.client",
    "pushapp.create_receipt",
    "pushapp.renew",
    "pushapp.service_worker",
    "pushapp.vapid_public_key",
}


blueprint = Blueprint("pushapp", __name__, url_prefix="/push", description="Web Push subscriptions")
errors.register(blueprint)


def openapi_docs(*statuses: int, security: str | None = "session") -> dict[str, Any]:
    """Return the OpenAPI error responses and security of a route."""
    responses = {status: HTTPStatus(status).name for status in statuses}
    return {"security": [{security: []}] if security else [], "responses": responses}


@blueprint.before_app_request
def handle_routing_error() -> Response | None:
    """Return JSON 404 and 405 under our prefix, also in a host application."""
    return errors.handle_routing_error(f"{current_app.extensions['push_url_prefix']}/")


@blueprint.before_request
def authorize_request() -> None:
    """Reject, in order: cross-site requests, bodies that are not JSON, unauthenticated requests."""
    reject_cross_site()
    require_json()
    # Blueprints inside this one authorize their requests themselves.
    is_for_users = request.blueprint == blueprint.name and request.endpoint not in PUBLIC_ENDPOINTS
    if request.endpoint in TOKEN_ENDPOINTS:
        require_token()
    elif is_for_users and request.method != "OPTIONS":
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
