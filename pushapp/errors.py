"""Every error answer, one shape: `{"code", "status", "message"?, "errors"?}`."""

import logging
from typing import NoReturn

from flask import Response, abort, json, request
from flask.sansio.scaffold import Scaffold
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from werkzeug.exceptions import HTTPException, InternalServerError, ServiceUnavailable

from .database import UnavailableError, describe, is_passing

RETRY_AFTER = 2  # seconds

logger = logging.getLogger(__name__)


def register(scaffold: Scaffold) -> None:
    """Let an application or a blueprint answer its errors in our shape."""
    scaffold.register_error_handler(HTTPException, answer)
    scaffold.register_error_handler(SQLAlchemyError, _answer_database_error)


def refuse(status: int, message: str) -> NoReturn:
    """End the request with an error answer: its HTTP status and a sentence for the developer."""
    abort(status, description=message)


def answer(error: HTTPException) -> Response:
    """Return an HTTP error as JSON, with the headers it brings (`Allow`, `Retry-After`)."""
    response = error.get_response(request.environ)
    if error.code is None or error.code < 400:
        return response  # type: ignore[return-value]  # a redirect is no error
    # flask-smorest and webargs put what they found wrong into `data`.
    details = getattr(error, "data", {})
    body = {"code": error.code, "status": error.name}
    if message := details.get("message") or (not details and error.description):
        body["message"] = message
    if errors := details.get("errors") or details.get("messages"):
        body["errors"] = errors
    response.set_data(json.dumps(body))
    response.content_type = "application/json"
    return response  # type: ignore[return-value]  # werkzeug types it as its base class


def answer_routing_error(prefix: str) -> Response | None:
    """Answer what no route took under `prefix`, on an application whose other errors are its own."""
    error = request.routing_exception
    if error is None or not request.path.startswith(prefix):
        return None
    return answer(error)


def _answer_database_error(error: SQLAlchemyError) -> Response:
    if is_passing(error):
        if not isinstance(error, UnavailableError):  # those who asked have said so
            logger.warning("the database does not answer: %s", describe(error))
        return answer(ServiceUnavailable("The database does not answer.", retry_after=RETRY_AFTER))
    if isinstance(error, DBAPIError):
        error.hide_parameters = True  # endpoints and keys are among them
    logger.exception("the database refused a statement")
    return answer(InternalServerError())
