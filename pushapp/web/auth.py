"""Authentication (session cookie, API token), and protection against cross-site requests."""

import hmac
import logging

from flask import current_app, request, session
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from ..models import normalize_user_id
from .errors import abort

INVALID_USER_ID = (
    "the user_id function returned an invalid %s: it must return a string of 1 to 255 characters without "
    "control characters, an integer, a UUID, or None"
)

logger = logging.getLogger(__name__)


def require_user() -> str:
    """Return the signed-in user's id.

    Aborts with 401 if there is none, and with 500 if the application's `user_id` returns an invalid one.
    """
    get_user_id = current_app.extensions["push_user_id"]
    value = get_user_id() if get_user_id else session.get(current_app.config["PUSH_SESSION_USER_KEY"])
    user_id = normalize_user_id(value)
    if user_id is not None:
        return user_id
    if not get_user_id:
        abort(401, "Authentication required: missing or invalid session cookie.")
    # `current_user.is_authenticated and current_user.id` is False without a user.
    if value is None or value is False:
        abort(401, "Authentication required: no user is signed in.")
    logger.error(INVALID_USER_ID, type(value).__name__)
    abort(500, "The application's user_id function returned an invalid id; its log says more.")


def require_token() -> None:
    """Abort with 401 unless the bearer token is one of PUSH_API_TOKENS (RFC 6750)."""
    if not _is_api_token(bearer_token()):
        raise Unauthorized(
            "Missing or invalid API token: send one of PUSH_API_TOKENS as Authorization: Bearer …",
            www_authenticate=WWWAuthenticate("bearer"),
        )


def bearer_token() -> str:
    """Return the request's bearer token, or an empty string."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def require_password() -> None:
    """Abort with 401 unless the password is one of PUSH_API_TOKENS (RFC 7617), with 404 if there are none."""
    if not current_app.config["PUSH_API_TOKENS"]:
        abort(404, "There is no dashboard without PUSH_API_TOKENS.")
    given = request.authorization
    password = (given.password or "") if given is not None and given.type == "basic" else ""
    if not _is_api_token(password):
        raise Unauthorized(
            "Missing or invalid password: one of PUSH_API_TOKENS, with any user name.",
            www_authenticate=WWWAuthenticate("basic", {"realm": "pushapp", "charset": "UTF-8"}),
        )


def _is_api_token(given: str) -> bool:
    # Every token is compared, in constant time each: no timing side channel.
    tokens = current_app.config["PUSH_API_TOKENS"]
    matches = [hmac.compare_digest(given.encode(), token.encode()) for token in tokens]
    return any(matches)


def reject_cross_site() -> None:
    """Abort with 403 if a page of another site made the browser send a state-changing request."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower() in current_app.config["PUSH_ALLOWED_ORIGINS"]:
        return
    fetch_site = request.headers.get("Sec-Fetch-Site")
    if fetch_site is not None:
        is_same_origin = fetch_site in ("same-origin", "none")
    else:
        is_same_origin = origin is None or origin.lower().partition("://")[2] == request.host.lower()
    if not is_same_origin:
        abort(403, "Cross-site request rejected; list the origin in PUSH_ALLOWED_ORIGINS to allow it.")
