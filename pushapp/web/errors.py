"""JSON error responses: `{"code", "status", "message"?, "errors"?}`."""

import logging
from collections.abc import Mapping
from typing import Any, NoReturn

import flask
from flask import Response, current_app, json, request
from flask.sansio.scaffold import Scaffold
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from werkzeug.exceptions import (
    HTTPException,
    InternalServerError,
    ServiceUnavailable,
    default_exceptions,
)

from ..database import DatabaseUnavailableError, is_transient, summarize

RETRY_AFTER = 2  # seconds

logger = logging.getLogger(__name__)


def register(scaffold: Scaffold) -> None:
    """Register JSON error handlers on an application or a blueprint."""
    for code in default_exceptions:  # Flask prefers a host's handler for a code to one for a class
        scaffold.register_error_handler(code, to_json_response)
    scaffold.register_error_handler(HTTPException, to_json_response)
    scaffold.register_error_handler(SQLAlchemyError, _handle_database_error)
    scaffold.register_error_handler(Exception, _handle_exception)


def abort(status: int, message: str) -> NoReturn:
    """Abort the request with an HTTP status and a sentence for the developer."""
    flask.abort(status, description=message)


def abort_with(status: int, errors: Mapping[str, Any]) -> NoReturn:
    """Abort the request with an HTTP status and the errors of its members."""
    error = default_exceptions[status]()
    error.data = {"errors": errors}  # type: ignore[attr-defined]  # as flask-smorest and webargs do
    raise error


def to_json_response(error: HTTPException) -> Response:
    """Return an HTTP error as JSON, with its headers (`Allow`, `Retry-After`)."""
    response = error.get_response(request.environ)
    if error.code is None or error.code < 400:
        return response  # type: ignore[return-value]  # a redirect is no error
    # flask-smorest and webargs put validation errors in `data`.
    details = getattr(error, "data", {})
    body = {"code": error.code, "status": error.name}
    if message := details.get("message") or (not details and error.description):
        body["message"] = message
    if errors := details.get("errors") or details.get("messages"):
        body["errors"] = errors
    response.set_data(json.dumps(body))
    response.content_type = "application/json"
    return response  # type: ignore[return-value]  # werkzeug types it as its base class


def handle_routing_error(prefix: str) -> Response | None:
    """Return 404 and 405 under `prefix` as JSON, in an application whose other errors are its own."""
    error = request.routing_exception
    if error is None or not request.path.startswith(prefix):
        return None
    return to_json_response(error)


def _handle_database_error(error: SQLAlchemyError) -> Response:
    if is_transient(error):
        if not isinstance(error, DatabaseUnavailableError):  # already logged
            logger.warning("database unavailable: %s", summarize(error))
        return to_json_response(ServiceUnavailable("Database unavailable.", retry_after=RETRY_AFTER))
    if isinstance(error, DBAPIError):
        error.hide_parameters = True  # endpoints and keys may be included
    logger.exception("database error")
    return to_json_response(InternalServerError())


def _handle_exception(error: Exception) -> Response:
    propagate = current_app.config["PROPAGATE_EXCEPTIONS"]
    if propagate or (propagate is None and (current_app.testing or current_app.debug)):
        raise error
    logger.error("exception in %s", request.endpoint, exc_info=error)
    return to_json_response(InternalServerError())
