"""Settings: defaults, sources, checks."""

import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from click import ClickException
from flask import Flask
from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from . import setting_checks as check
from .database import POOL_TIMEOUT
from .instance import load_or_create_secret

DEFAULT_DATABASE_URL = "sqlite:///pushapp.db"

logger = logging.getLogger(__name__)


class ConfigurationError(ClickException):
    """A setting is missing or invalid; the message says in one line what to set."""


class Setting(NamedTuple):
    """The default of a setting, and a function that checks a value, and returns the one to use."""

    default: Any
    check: Callable[[Any], Any]


SETTINGS: Mapping[str, Setting] = {
    "PUSH_ALLOWED_ORIGINS": Setting([], check.origins),
    "PUSH_API_TOKENS": Setting([], check.texts),
    "PUSH_BROWSER_HAS_ONE_USER": Setting(True, check.boolean),
    "PUSH_CHANNELS": Setting([], check.channels),
    "PUSH_DEMO": Setting(False, check.boolean),
    "PUSH_MAX_SUBSCRIPTIONS_PER_USER": Setting(100, check.integer(1)),
    "PUSH_MESSAGE_RETENTION_DAYS": Setting(30, check.integer(1)),
    "PUSH_METRICS": Setting(False, check.boolean),
    "PUSH_OPENAPI_URL_PREFIX": Setting(None, check.url_prefix),
    "PUSH_PREPARE_THRESHOLD": Setting(5, check.prepare_threshold),
    "PUSH_PROXY": Setting(None, check.proxy),
    "PUSH_RECEIPTS": Setting(False, check.boolean),
    "PUSH_SESSION_USER_KEY": Setting("user_id", check.text),
    "PUSH_SITE_URL": Setting(None, check.site_url),
    "PUSH_SUPPRESS_SEND": Setting(None, check.optional(check.boolean)),  # None: the application's TESTING
    "PUSH_TRUSTED_PUSH_SERVICES": Setting([], check.origins),
    "PUSH_VAPID_PRIVATE_KEY": Setting(None, check.unchecked),  # `keys` checks these three
    "PUSH_VAPID_PRIVATE_KEY_FALLBACKS": Setting([], check.unchecked),
    "PUSH_VAPID_SUBJECT": Setting(None, check.unchecked),
    "PUSH_WEBHOOK_SECRET": Setting(None, check.webhook_secret),
    "PUSH_WEBHOOK_URL": Setting(None, check.webhook_url),
}

# Flask's settings that decide who is signed in. A wrong one would fail late, or sign in anyone.
FLASK_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "PERMANENT_SESSION_LIFETIME": check.lifetime,
    "SECRET_KEY": check.optional_secret,
    "SECRET_KEY_FALLBACKS": check.secrets,
    "SESSION_COOKIE_DOMAIN": check.optional_text,
    "SESSION_COOKIE_HTTPONLY": check.boolean,
    "SESSION_COOKIE_NAME": check.text,
    "SESSION_COOKIE_PARTITIONED": check.boolean,
    "SESSION_COOKIE_PATH": check.optional_text,
    "SESSION_COOKIE_SAMESITE": check.same_site,
    "SESSION_COOKIE_SECURE": check.boolean,
    "SESSION_REFRESH_EACH_REQUEST": check.boolean,
}

APP_DEFAULTS: Mapping[str, Any] = {
    "PUSH_OPENAPI_URL_PREFIX": "/",
    "SESSION_COOKIE_NAME": "access_token",
    "SESSION_COOKIE_HTTPONLY": True,
    "SESSION_COOKIE_SAMESITE": "Lax",
    "SESSION_COOKIE_SECURE": True,
    # The site that signs users in owns the cookie: never send it again.
    "SESSION_REFRESH_EACH_REQUEST": False,
}


def load_app_config(app: Flask, settings: Mapping[str, Any]) -> None:
    """Load the settings of pushapp's own application: defaults, the environment, then `settings`.

    Raises ConfigurationError when the database or the secret key cannot be used.
    """
    app.config.from_mapping(APP_DEFAULTS)
    app.config.from_prefixed_env()
    for variable in ("SECRET_KEY", "FLASK_SECRET_KEY"):
        if secret := os.environ.get(variable):
            app.config["SECRET_KEY"] = secret  # raw: an all-digit secret must stay a string
    app.config.from_mapping(settings)
    load_database_config(app)
    if not app.config["SECRET_KEY"]:
        if app.config["SQLALCHEMY_DATABASE_URI"].get_backend_name() != "sqlite":
            raise ConfigurationError(
                "SECRET_KEY is not set: with a database server, set it to the secret that signs your site's "
                "session cookie"
            )
        app.config["SECRET_KEY"] = load_or_create_secret(app, "secret_key", secrets.token_urlsafe)


def load_push_config(app: Flask) -> None:
    """Load the `PUSH_…` settings of any application, from its config, the environment or their defaults.

    Raises ConfigurationError for an invalid value, for a name that does not exist, and for invalid settings
    of Flask's sessions.
    """
    _reject_unknown(app)
    for name, setting in SETTINGS.items():
        if name not in app.config:
            app.config[name] = _from_environment(name, setting.default)
        app.config[name] = _check(setting.check, name, app.config[name])
    for name, flask_check in FLASK_CHECKS.items():
        if name in app.config:
            app.config[name] = _check(flask_check, name, app.config[name])
    if app.config["PUSH_WEBHOOK_URL"] and not app.config["PUSH_WEBHOOK_SECRET"]:
        raise ConfigurationError(
            "PUSH_WEBHOOK_SECRET is not set: PUSH_WEBHOOK_URL needs it, to sign what is posted"
        )
    if app.config["PUSH_RECEIPTS"] and not app.config["SECRET_KEY"]:
        raise ConfigurationError(
            "SECRET_KEY is not set: PUSH_RECEIPTS needs it, to sign the receipts' tokens"
        )


def warn_without_site_url(app: Flask) -> None:
    """Log that declarative notifications are incomplete, if PUSH_SITE_URL is not set."""
    if app.config["PUSH_SITE_URL"] is None:
        logger.warning(
            "PUSH_SITE_URL is not set: Safari needs absolute URLs in notifications; set it to your site's "
            "origin, such as https://example.com"
        )


def load_database_config(app: Flask) -> None:
    """Set the database's URL, for an application without a Flask-SQLAlchemy object of its own.

    Raises ConfigurationError.
    """
    text = app.config.get("SQLALCHEMY_DATABASE_URI") or os.environ.get("DATABASE_URL") or DEFAULT_DATABASE_URL
    url = database_url(text)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    if url.get_backend_name() == "sqlite":
        options = {"hide_parameters": True, "connect_args": {"timeout": POOL_TIMEOUT}}
        app.config.setdefault("SQLALCHEMY_ENGINE_OPTIONS", options)


def database_url(text: str | URL) -> URL:
    """Return a database's URL with the driver spelled out (`postgres://` means psycopg 3).

    Raises ConfigurationError if it is neither PostgreSQL nor SQLite.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "DATABASE_URL is not a database URL such as postgresql://user@host/name"
        ) from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite":
        return url
    raise ConfigurationError(f"DATABASE_URL has {url.drivername}: only postgresql and sqlite are supported")


def _check(check_value: Callable[[Any], Any], name: str, value: Any) -> Any:
    try:
        return check_value(value)
    except ValueError as error:
        raise ConfigurationError(f"{name} {error}") from None


def _reject_unknown(app: Flask) -> None:
    environment = (name.removeprefix("FLASK_") for name in os.environ if name.startswith("FLASK_PUSH_"))
    for name in (*app.config, *environment):
        if name.startswith("PUSH_") and name not in SETTINGS:
            nearest = get_close_matches(name, SETTINGS, 1, cutoff=0)
            raise ConfigurationError(f"{name} is not a setting: did you mean {nearest[0]}?")


def _from_environment(name: str, default: Any) -> Any:
    text = os.environ.get(f"FLASK_{name}")
    if text is None:
        return default
    try:
        return json.loads(text)
    except ValueError:
        return text
