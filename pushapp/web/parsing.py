"""JSON bodies of requests, of at most 16 KiB."""

import json
from typing import Any, NoReturn

from flask import request
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import HTTPException

from .errors import abort, abort_invalid

MAX_BODY_LENGTH = 16 * 1024  # bytes
WITHOUT_BODY = {"pushapp.test_subscription"}  # endpoints that take none
MAX_INTEGER_DIGITS = 1_000  # longer literals become float infinity: int() has a digit limit


def require_json() -> None:
    """Abort with 415 if a body's Content-Type is not application/json."""
    takes_body = request.method in ("PATCH", "POST") and request.endpoint not in WITHOUT_BODY
    if takes_body and request.mimetype != "application/json":
        abort(415, "The body must be sent as Content-Type: application/json.")


def load_json(schema: Schema) -> Any:
    """Return the body, loaded with a schema; abort with 400, 413 or 422 if it is invalid."""
    try:
        return schema.load(_parse(_read()))
    except ValidationError as error:
        abort_invalid({"json": error.messages})


def _parse(body: bytes) -> Any:
    # Stricter than Python's JSON: UTF-8 only, no NaN, bounded nesting and size.
    if len(body) > MAX_BODY_LENGTH:
        abort(413, f"The body must be at most {MAX_BODY_LENGTH} bytes long.")
    try:
        return json.loads(body.decode("utf-8-sig"), parse_int=_parse_int, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        abort(400, "The body is not valid JSON.")


def _read() -> bytes:
    request.max_content_length = MAX_BODY_LENGTH + 1  # to detect a chunked body that is too long
    try:
        return request.get_data(cache=False)
    except HTTPException:
        raise
    except Exception:  # raised by the WSGI server: bad chunking, client disconnected
        abort(400, "The body could not be read.")


def _parse_int(digits: str) -> float:
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else float(digits)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")
