"""HTTP: the blueprints, and their OpenAPI description."""

import re
from collections.abc import Callable
from typing import Any

from flask import Flask
from flask_cors import CORS
from flask_smorest import Api as SmorestApi

from .. import instance
from . import channels, health, messages, receipts, views  # noqa: F401  # their routes
from .routes import blueprint

BLUEPRINT_NAME: str = blueprint.name


class Api(SmorestApi):  # type: ignore[misc]  # flask-smorest has no types
    """flask-smorest without its error handlers (ours are in `errors`), and without its command group."""

    def _register_error_handlers(self) -> None:
        pass

    def _init_spec(self, **options: Any) -> None:
        # A host's own command group `openapi` would be replaced.
        commands = dict(self._app.cli.commands)
        super()._init_spec(**options)
        self._app.cli.commands = commands


def init_app(app: Flask, *, user_id: Callable[[], object] | None, url_prefix: str, with_health: bool) -> None:
    """Register the blueprints, their OpenAPI description, CORS and metrics as configured."""
    app.extensions["push_user_id"] = user_id
    app.extensions["push_url_prefix"] = url_prefix
    spec = {"title": "pushapp", "version": "1", "openapi_version": "3.1.0"}
    api = Api(app, config_prefix="PUSH_", spec_kwargs=spec)
    cookie = {"type": "apiKey", "in": "cookie", "name": app.config["SESSION_COOKIE_NAME"]}
    api.spec.components.security_scheme("session", cookie)
    api.spec.components.security_scheme("token", {"type": "http", "scheme": "bearer"})
    api.register_blueprint(blueprint, url_prefix=url_prefix)
    if with_health:
        api.register_blueprint(health.blueprint)
    # Compiled: flask-cors would read a text with brackets as a regular expression.
    if origins := [re.compile(re.escape(origin) + r"\Z") for origin in app.config["PUSH_ALLOWED_ORIGINS"]]:
        paths = re.compile(re.escape(url_prefix) + "/(?!dashboard).*")
        CORS(app, resources={paths: {"origins": origins}}, supports_credentials=True)
    if app.config["PUSH_METRICS"]:
        instance.configure_multiprocess_metrics(app)
        from . import metrics  # noqa: PLC0415  # prometheus_client reads its settings at import

        metrics.init_app(app)
