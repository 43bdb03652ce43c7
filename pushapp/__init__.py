"""Keeps the Web Push subscriptions of a Flask site's users, and sends to them."""

from collections.abc import Mapping
from typing import Any

from flask import Flask

from . import cli, config, demo, errors, health, vapid, views
from .config import ConfigurationError
from .database import engine
from .extensions import api, init_api, init_database
from .jobs import EVERYONE, send
from .messages import Message, MessageError, Urgency

__all__ = ["EVERYONE", "ConfigurationError", "Message", "MessageError", "Urgency"]
__all__ += ["create_app", "init_app", "send"]


def create_app(settings: Mapping[str, Any] | None = None, *, instance_path: str | None = None) -> Flask:
    """Return pushapp as an application of its own, with `settings` standing above the environment's.

    Raises ConfigurationError when a setting is missing or wrong.
    """
    app = Flask(__name__, static_folder=None, instance_path=instance_path)
    config.load_site(app, settings or {})
    errors.register(app)
    init_app(app)
    api.register_blueprint(health.blueprint)
    app.cli.add_command(cli.demo)
    if app.config["PUSH_DEMO"]:
        demo.init_app(app)
    return app


def init_app(app: Flask) -> None:
    """Put the `/push` routes and the `flask push` commands into any Flask application.

    An application that has its own Flask-SQLAlchemy object initialises that first, and keeps it.
    Raises ConfigurationError when a setting is missing or wrong.
    """
    config.load_push(app)
    init_database(app)
    with app.app_context():
        vapid.init_app(app, embedded_database=engine().dialect.name == "sqlite")
    init_api(app)
    api.register_blueprint(views.blueprint)
    app.cli.add_command(cli.push)
    if app.config["PUSH_METRICS"]:
        config.let_processes_share_metrics(app)
        from . import metrics  # only now: prometheus_client looks where to share when it is imported

        metrics.init_app(app)
