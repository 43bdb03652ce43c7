"""Authentication (session cookie, API token), and protection against cross-site requests."""

import hmac

from flask import current_app, request, session
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from ..models import normalize_user_id
from .errors import abort


def require_user() -> str:
    """Return the signed-in user's id; abort with 401 if there is none."""
    get_user_id = current_app.extensions["push_user_id"] or _session_user_id
    user_id = normalize_user_id(get_user_id())
    if user_id is None:
        abort(401, "Authentication required: missing or invalid session cookie.")
    return user_id


def _session_user_id() -> object:
    return session.get(current_app.config["PUSH_SESSION_USER_KEY"])


def require_token() -> None:
    """Abort with 401 unless the bearer token is one of PUSH_API_TOKENS (RFC 6750)."""
    given = bearer_token().encode()
    # Every token is compared, in constant time each: no timing side channel.
    tokens = current_app.config["PUSH_API_TOKENS"]
    matches = [hmac.compare_digest(given, known.encode()) for known in tokens]
    if not given or not any(matches):
        raise Unauthorized(
            "Missing or invalid API token: send one of PUSH_API_TOKENS as Authorization: Bearer …",
            www_authenticate=WWWAuthenticate("bearer"),
        )


def bearer_token() -> str:
    """Return the request's bearer token, or an empty string."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


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
