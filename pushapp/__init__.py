"""Web Push subscriptions and notifications for Flask."""

from collections.abc import Mapping
from typing import Any

from flask import Flask

from . import cli, config, demo, extensions, web
from .config import ConfigurationError
from .database import engine
from .sending.audience import EVERYONE
from .sending.outbox import send
from .web import errors
from .webpush.message import Message, MessageError, Urgency

__all__ = ["EVERYONE", "ConfigurationError", "Message", "MessageError", "Urgency"]
__all__ += ["create_app", "init_app", "send"]


def create_app(settings: Mapping[str, Any] | None = None, *, instance_path: str | None = None) -> Flask:
    """Return pushapp as a standalone application; `settings` override the environment.

    Raises ConfigurationError when a setting is missing or invalid.
    """
    app = Flask(__name__, static_folder=None, instance_path=instance_path)
    config.load_app_config(app, settings or {})
    errors.register(app)
    _init_app(app, with_health=True)
    app.cli.add_command(cli.demo)
    if app.config["PUSH_DEMO"]:
        demo.init_app(app)
    return app


def init_app(app: Flask) -> None:
    """Register the `/push` routes and the `flask push` commands on a Flask application.

    Initialize your own Flask-SQLAlchemy object first, if you have one: pushapp uses it.
    Raises ConfigurationError when a setting is missing or invalid.
    """
    _init_app(app, with_health=False)


def _init_app(app: Flask, *, with_health: bool) -> None:
    config.load_push_config(app)
    extensions.init_app(app)
    with app.app_context():
        config.load_vapid_signer(app, on_sqlite=engine().dialect.name == "sqlite")
    web.init_app(app, with_health=with_health)
    app.cli.add_command(cli.push)
