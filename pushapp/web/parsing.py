"""JSON bodies of requests, of at most 16 KiB; of the messages API, 1 MiB."""

import json
import re
from typing import Any, NoReturn

from flask import request
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import HTTPException

from .errors import abort, abort_with

MAX_BODY_LENGTH = 16 * 1024  # bytes
MAX_MESSAGE_BODY_LENGTH = 1024 * 1024  # bytes
MESSAGE_ENDPOINTS = {"pushapp.create_message"}
WITHOUT_BODY = {"pushapp.test_subscription"}  # endpoints that take none
INVALID_JSON = "The body is not valid JSON."
MAX_INTEGER_DIGITS = 1_000  # longer literals become float infinity: int() has a digit limit

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


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
        abort_with(422, {"json": error.messages})


def _parse(body: bytes) -> Any:
    try:
        return parse_json(body)
    except RecursionError:
        if _is_balanced(body.decode("utf-8-sig")):
            abort_with(422, {"json": {"_schema": ["Must have fewer levels."]}})
        abort(400, INVALID_JSON)
    except ValueError:
        abort(400, INVALID_JSON)


def parse_json(text: bytes) -> Any:
    """Return JSON as Python values. Stricter than Python's: UTF-8 only, no NaN, bounded nesting.

    Raises ValueError, and RecursionError.
    """
    return _decoder.decode(text.decode("utf-8-sig"))


def _read() -> bytes:
    limit = MAX_MESSAGE_BODY_LENGTH if request.endpoint in MESSAGE_ENDPOINTS else MAX_BODY_LENGTH
    request.max_content_length = limit + 1  # to detect a chunked body that is too long
    try:
        body = request.get_data(cache=False)
    except HTTPException:
        raise
    except Exception:  # raised by the WSGI server: bad chunking, client disconnected
        abort(400, "The body could not be read.")
    if len(body) > limit:
        abort(413, f"The body must be at most {limit} bytes long.")
    return body


def _is_balanced(text: str) -> bool:
    structure = _STRING.sub("", text)
    return all(structure.count(opening) == structure.count(closing) for opening, closing in ("[]", "{}"))


def _parse_int(digits: str) -> float:
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else float(digits)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


_decoder = json.JSONDecoder(parse_int=_parse_int, parse_constant=_reject_constant)
