"""Who is asking (session cookie → user id, or a service's token), and is the request from our own site."""

import hmac

from flask import current_app, request, session
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from .errors import refuse
from .models import user_id_of


def require_user() -> str:
    """Return the id of the user who is signed in; end the request with 401 when nobody is."""
    user_id = user_id_of(session.get(current_app.config["PUSH_SESSION_USER_KEY"]))
    if user_id is None:
        refuse(401, "Sign in first: no valid session cookie came with the request.")
    return user_id


def require_token() -> None:
    """End the request with 401 unless it carries one of PUSH_API_TOKENS as its bearer token (RFC 6750)."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    given = token.strip().encode()
    # All are compared, and each in constant time, so that the time taken tells nothing.
    known = [hmac.compare_digest(given, one.encode()) for one in current_app.config["PUSH_API_TOKENS"]]
    if scheme.lower() != "bearer" or not any(known):
        raise Unauthorized(
            "Give one of PUSH_API_TOKENS: Authorization: Bearer …", www_authenticate=WWWAuthenticate("bearer")
        )


def require_own_site() -> None:
    """End a state-changing request with 403 when a page of another site made the browser send it."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower() in current_app.config["PUSH_ALLOWED_ORIGINS"]:
        return
    fetch_site = request.headers.get("Sec-Fetch-Site")
    if fetch_site is not None:
        own = fetch_site in ("same-origin", "none")
    else:
        own = origin is None or origin.lower().partition("://")[2] == request.host.lower()
    if not own:
        refuse(403, "Requests from other sites are refused; PUSH_ALLOWED_ORIGINS lets named origins through.")
