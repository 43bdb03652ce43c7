"""A request's JSON body, at most 16 KiB of it."""

import json
from typing import Any, NoReturn

from flask import Request, request
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException

from .errors import refuse

MAX_BODY_LENGTH = 16 * 1024
MAX_INTEGER_DIGITS = 1_000  # longer ones become infinity: Python refuses to read them


def require_json() -> None:
    """End the request with 415 when it brings a body that does not call itself JSON."""
    if request.method == "POST" and request.mimetype != "application/json":
        refuse(415, "The body must be sent as Content-Type: application/json.")


class JSONBodyParser(FlaskParser):
    """webargs' parser with stricter JSON: no NaN, no other encoding, no bottomless nesting, 16 KiB."""

    def load_json(self, req: Request, schema: Any) -> Any:
        """Return the body as Python values; end the request with 400 or 413 when that cannot be done."""
        req.max_content_length = MAX_BODY_LENGTH + 1  # one more, to see that a chunked body is too long
        body = _read(req)
        if len(body) > MAX_BODY_LENGTH:
            refuse(413, f"The body must be at most {MAX_BODY_LENGTH} bytes long.")
        try:
            return json.loads(body.decode(), parse_int=_parse_int, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            refuse(400, "The body is not JSON.")


def _read(req: Request) -> bytes:
    try:
        return req.get_data(cache=False)
    except HTTPException:
        raise
    except Exception:  # of the server's own: wrong chunks, or nothing more from a client that is gone
        refuse(400, "The body could not be read.")


def _parse_int(digits: str) -> float:
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else float(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
