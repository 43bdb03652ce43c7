"""Settings: defaults, sources, checks."""

import os
import secrets
from collections.abc import Mapping
from typing import Any

from flask import Flask, current_app
from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from .instance import load_or_create_secret
from .webpush.endpoints import parse_origin
from .webpush.vapid import PLACEHOLDER_SUBJECT, Signer, check_subject, generate_key_pair, load_key_pair

PUSH_DEFAULTS: Mapping[str, Any] = {
    "PUSH_ALLOWED_ORIGINS": [],
    "PUSH_API_TOKENS": [],
    "PUSH_BROWSER_HAS_ONE_USER": True,
    "PUSH_DEMO": False,
    "PUSH_MAX_SUBSCRIPTIONS_PER_USER": 100,
    "PUSH_METRICS": False,
    "PUSH_SESSION_USER_KEY": "user_id",
    "PUSH_TRUSTED_PUSH_SERVICES": [],
    "PUSH_VAPID_PRIVATE_KEY": None,
    "PUSH_VAPID_SUBJECT": None,
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

DEFAULT_DATABASE_URL = "sqlite:///pushapp.db"
CONNECT_TIMEOUT = 2  # seconds, per address of the server; libpq's minimum
POOL_TIMEOUT = 1  # seconds, for a pooled connection; on SQLite for the lock on the file
STATEMENT_TIMEOUT = 1_300  # milliseconds, enforced by PostgreSQL


class ConfigurationError(Exception):
    """A setting is missing or invalid; the message says in one line what to set."""


def load_app_config(app: Flask, settings: Mapping[str, Any]) -> None:
    """Load the settings of pushapp's own application: defaults, the environment, then `settings`.

    Raises ConfigurationError when the database or the secret key cannot be used.
    """
    app.config.from_mapping(APP_DEFAULTS)
    for name, variable in (("SQLALCHEMY_DATABASE_URI", "DATABASE_URL"), ("SECRET_KEY", "SECRET_KEY")):
        if value := os.environ.get(variable):
            app.config[name] = value
    app.config.from_prefixed_env()
    if secret := os.environ.get("FLASK_SECRET_KEY"):
        app.config["SECRET_KEY"] = secret  # raw: an all-digit secret must stay a string
    app.config.from_mapping(settings)

    url = database_url(app.config.get("SQLALCHEMY_DATABASE_URI") or DEFAULT_DATABASE_URL)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config.setdefault("SQLALCHEMY_ENGINE_OPTIONS", engine_options(url))
    if not app.config["SECRET_KEY"]:
        if not is_sqlite(url):
            raise ConfigurationError(
                "SECRET_KEY is not set: with a database server, set it to the secret that signs your site's "
                "session cookie"
            )
        app.config["SECRET_KEY"] = load_or_create_secret(app, "secret_key", secrets.token_urlsafe)


def load_push_config(app: Flask) -> None:
    """Set the defaults of the `PUSH_…` settings of any application, and check their values.

    Raises ConfigurationError.
    """
    for name, default in PUSH_DEFAULTS.items():
        app.config.setdefault(name, default)
    for name in ("PUSH_BROWSER_HAS_ONE_USER", "PUSH_DEMO", "PUSH_METRICS"):
        app.config[name] = _boolean(name, app.config[name])
    for name in ("PUSH_ALLOWED_ORIGINS", "PUSH_TRUSTED_PUSH_SERVICES"):
        app.config[name] = _origins(name, app.config[name])
    tokens = app.config["PUSH_API_TOKENS"]
    if not isinstance(tokens, list | tuple) or not all(isinstance(token, str) and token for token in tokens):
        raise ConfigurationError(
            """PUSH_API_TOKENS must be a list of tokens, such as '["a long random text"]'"""
        )
    limit = app.config["PUSH_MAX_SUBSCRIPTIONS_PER_USER"]
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigurationError("PUSH_MAX_SUBSCRIPTIONS_PER_USER must be an integer of at least 1")
    key = app.config["PUSH_SESSION_USER_KEY"]
    if not isinstance(key, str) or not key:
        raise ConfigurationError("PUSH_SESSION_USER_KEY must be a key of the session, such as user_id")


def load_vapid_signer(app: Flask, *, on_sqlite: bool) -> None:
    """Load the application's VAPID key and subject; on SQLite, generate and store a missing key.

    Raises ConfigurationError.
    """
    private_key = app.config["PUSH_VAPID_PRIVATE_KEY"]
    if not private_key:
        if not on_sqlite:
            raise ConfigurationError(
                "PUSH_VAPID_PRIVATE_KEY is not set: with a database server, set FLASK_PUSH_VAPID_PRIVATE_KEY "
                "to a key from `DATABASE_URL= flask --app wsgi push vapid-keys`"
            )
        private_key = load_or_create_secret(app, "vapid_private_key", lambda: generate_key_pair().private)
    try:
        key_pair = load_key_pair(private_key)
    except ValueError:
        raise ConfigurationError(
            "PUSH_VAPID_PRIVATE_KEY must be the base64url of a 32-byte private key on P-256, as "
            "`flask --app wsgi push vapid-keys` prints it"
        ) from None
    subject = app.config["PUSH_VAPID_SUBJECT"]
    try:
        subject = PLACEHOLDER_SUBJECT if subject is None else check_subject(subject)
    except ValueError:
        raise ConfigurationError(
            "PUSH_VAPID_SUBJECT must be your contact for push services, such as mailto:you@your-site.org or "
            "https://your-site.org, at a public host"
        ) from None
    app.extensions["push_vapid_signer"] = Signer(key_pair, subject)


def vapid_signer() -> Signer:
    """Return the signer of the current application."""
    signer: Signer = current_app.extensions["push_vapid_signer"]
    return signer


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
    if is_sqlite(url):
        return url
    raise ConfigurationError(f"DATABASE_URL has {url.drivername}: only postgresql and sqlite are supported")


def is_sqlite(url: URL) -> bool:
    """Return whether a database is SQLite."""
    return url.get_backend_name() == "sqlite"


def engine_options(url: URL) -> dict[str, Any]:
    """Return SQLAlchemy's engine options for a database: time-outs, and no parameters in errors."""
    options: dict[str, Any] = {"hide_parameters": True}
    if is_sqlite(url):
        return options | {"connect_args": {"timeout": POOL_TIMEOUT}}
    connect_args: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT}
    if "options" not in url.query:
        # UTC: a date in the year 9999 cannot be read in a time zone ahead of it.
        connect_args["options"] = f"-c statement_timeout={STATEMENT_TIMEOUT} -c timezone=UTC"
    return options | {
        "pool_timeout": POOL_TIMEOUT,
        "connect_args": connect_args,
        # Most requests are one statement: no BEGIN, and no rollback when the connection is returned.
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
    }


def _boolean(name: str, value: object) -> bool:
    booleans = {"true": True, "1": True, "false": False, "0": False}
    if (text := str(value).lower()) not in booleans:
        raise ConfigurationError(f"{name} must be true or false")
    return booleans[text]


def _origins(name: str, value: object) -> list[str]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ConfigurationError(f"""{name} must be a list of origins, such as '["https://example.com"]'""")
    try:
        return [parse_origin(origin) for origin in value]
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None
