"""A blueprint whose routes load and dump JSON with marshmallow, and are documented by flask-smorest."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Response, current_app
from flask_smorest import Blueprint as SmorestBlueprint
from marshmallow import Schema

from .parsing import load_json

View = Callable[..., Any]


class Blueprint(SmorestBlueprint):  # type: ignore[misc]  # flask-smorest has no types
    """flask-smorest's blueprint. Its decorators document a route; what they do for a request is done here.

    webargs and flask-smorest would spend a quarter of a request's time on options that no route has.
    """

    def arguments(self, schema: Schema, *, location: str = "json", **options: Any) -> Callable[[View], View]:
        """Load the JSON body, or another location, with a schema, and pass it to the view."""
        document = super().arguments(schema, location=location, **options)
        if location != "json":
            return document  # type: ignore[no-any-return]

        def decorator(view: View) -> View:
            @wraps(document(view))
            def load(*arguments: Any, **keywords: Any) -> Any:
                return view(load_json(schema), *arguments, **keywords)

            return load

        return decorator

    def response(
        self, status_code: int, schema: type[Schema] | dict[str, str] | None = None, **options: Any
    ) -> Callable[[View], View]:
        """Dump what the view returns with a schema, unless it returns a response."""
        document = super().response(status_code, schema, **options)
        dump = schema().dump if isinstance(schema, type) else None

        def decorator(view: View) -> View:
            @wraps(document(view))
            def respond(*arguments: Any, **keywords: Any) -> Any:
                result = view(*arguments, **keywords)
                if isinstance(result, Response):
                    return result
                response = current_app.json.response(dump(result)) if dump else Response()
                response.status_code = status_code
                return response

            return respond

        return decorator
