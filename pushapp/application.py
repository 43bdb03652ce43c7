"""The application factory, and what adds pushapp to an application."""

from collections.abc import Callable, Mapping
from typing import Any

import click
from flask import Flask

from . import cli, config, dashboard, demo, extensions, keys, web  # noqa: F401  # adds its routes to web's
from .config import ConfigurationError
from .database import engine
from .web import errors


def create_app(settings: Mapping[str, Any] | None = None, *, instance_path: str | None = None) -> Flask:
    """Return pushapp as a standalone application; `settings` override the environment.

    Raises ConfigurationError when a setting is missing or invalid.
    """
    app = Flask(__package__, static_folder=None, instance_path=instance_path)
    config.load_app_config(app, settings or {})
    errors.register(app)
    _init_app(app, with_health=True)
    app.cli.add_command(cli.demo)
    if app.config["PUSH_DEMO"]:
        demo.init_app(app)
    return app


def init_app(
    app: Flask,
    *,
    user_id: Callable[[], object] | None = None,
    url_prefix: str = "/push",
    cli_group: str = "push",
) -> None:
    """Register the routes below `url_prefix` and the commands `flask CLI_GROUP` on a Flask application.

    `user_id` returns the id of the signed-in user (a string, an integer or a UUID), or None; without it the
    session's `PUSH_SESSION_USER_KEY` is the id. Initialize your own Flask-SQLAlchemy object first, if you
    have one.
    Raises ConfigurationError when a setting is missing or invalid, or a name is taken.
    """
    _init_app(app, user_id=user_id, url_prefix=url_prefix, cli_group=cli_group)


def _init_app(
    app: Flask,
    *,
    user_id: Callable[[], object] | None = None,
    url_prefix: str = "/push",
    cli_group: str = "push",
    with_health: bool = False,
) -> None:
    url_prefix = url_prefix.rstrip("/")
    _reject_taken_names(app, cli_group)
    config.load_push_config(app)
    extensions.init_app(app)
    with app.app_context():
        keys.load(app, on_sqlite=engine().dialect.name == "sqlite")
    web.init_app(app, user_id=user_id, url_prefix=url_prefix, with_health=with_health)
    app.extensions["push_cli_group"] = cli_group
    app.cli.add_command(cli.push, name=cli_group)
    context = click.get_current_context(silent=True)
    if context is None or context.info_name == "run":  # other commands print what they are for
        config.warn_without_site_url(app)


def _reject_taken_names(app: Flask, cli_group: str) -> None:
    if web.BLUEPRINT_NAME in app.blueprints:
        raise ConfigurationError(
            "the application has a blueprint named pushapp: call init_app once, or rename yours"
        )
    if cli_group in app.cli.commands:
        raise ConfigurationError(
            f"the application has a command group named {cli_group}: pass init_app another name as cli_group"
        )
