"""Settings: defaults, sources, checks."""

import json
import os
import secrets
from collections.abc import Callable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, NamedTuple

from click import ClickException
from flask import Flask, current_app
from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from .database import POOL_TIMEOUT
from .instance import load_or_create_secret
from .webpush.endpoints import parse_origin
from .webpush.vapid import PLACEHOLDER_SUBJECT, Signer, check_subject, generate_key_pair, load_key_pair

DEFAULT_DATABASE_URL = "sqlite:///pushapp.db"


class ConfigurationError(ClickException):
    """A setting is missing or invalid; the message says in one line what to set."""


class Setting(NamedTuple):
    """The default of a setting, and a function that checks the name and a value, and returns the value."""

    default: Any
    check: Callable[[str, Any], Any]


def _boolean(name: str, value: object) -> bool:
    booleans = {"true": True, "1": True, "false": False, "0": False}
    if (text := str(value).lower()) not in booleans:
        raise ConfigurationError(f"{name} must be true or false")
    return booleans[text]


def _optional_boolean(name: str, value: object) -> bool | None:
    return None if value is None else _boolean(name, value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name} must be a text that is not empty")
    return value


def _optional_text(name: str, value: object) -> str | None:
    return None if value in (None, False, "") else _text(name, value)


def _optional_secret(name: str, value: object) -> str | bytes | None:
    if not value:
        return None
    return value if isinstance(value, bytes) else _text(name, value)


def _texts(name: str, value: object) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) and text for text in value):
        raise ConfigurationError(f"""{name} must be a list of texts, such as '["a long random text"]'""")
    return list(value)


def _secrets(name: str, value: Any) -> list[str | bytes] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(
        isinstance(secret, str | bytes) and secret for secret in value
    ):
        raise ConfigurationError(f"""{name} must be a list of secrets, such as '["the old secret"]'""")
    return list(value)


def _origins(name: str, value: object) -> list[str]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ConfigurationError(f"""{name} must be a list of origins, such as '["https://example.com"]'""")
    try:
        return [parse_origin(origin) for origin in value]
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None


def _integer(minimum: int) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ConfigurationError(f"{name} must be an integer of at least {minimum}")
        return value

    return check


def _prepare_threshold(name: str, value: object) -> int | None:
    try:
        return None if value is None else _integer(0)(name, value)
    except ConfigurationError:
        raise ConfigurationError(f"{name} must be an integer of at least 0, or null for never") from None


def _same_site(name: str, value: object) -> str | None:
    if value is not None and str(value).title() not in ("Lax", "Strict", "None"):
        raise ConfigurationError(f"{name} must be Lax, Strict or None")
    return None if value is None else str(value).title()


def _lifetime(name: str, value: Any) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        if isinstance(value, bool) or value < 0:
            raise ValueError
        return timedelta(seconds=value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigurationError(f"{name} must be a number of seconds, or a timedelta") from None


def _url_prefix(name: str, value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and value.startswith("/")):
        raise ConfigurationError(f"{name} must be a path that begins with /")
    return value


def _unchecked(_name: str, value: object) -> object:
    return value


SETTINGS: Mapping[str, Setting] = {
    "PUSH_ALLOWED_ORIGINS": Setting([], _origins),
    "PUSH_API_TOKENS": Setting([], _texts),
    "PUSH_BROWSER_HAS_ONE_USER": Setting(True, _boolean),
    "PUSH_DEMO": Setting(False, _boolean),
    "PUSH_MAX_SUBSCRIPTIONS_PER_USER": Setting(100, _integer(1)),
    "PUSH_METRICS": Setting(False, _boolean),
    "PUSH_OPENAPI_URL_PREFIX": Setting(None, _url_prefix),
    "PUSH_PREPARE_THRESHOLD": Setting(5, _prepare_threshold),
    "PUSH_SESSION_USER_KEY": Setting("user_id", _text),
    "PUSH_SUPPRESS_SEND": Setting(None, _optional_boolean),  # None: the application's TESTING
    "PUSH_TRUSTED_PUSH_SERVICES": Setting([], _origins),
    "PUSH_VAPID_PRIVATE_KEY": Setting(None, _unchecked),  # `load_vapid_signer` checks these two
    "PUSH_VAPID_SUBJECT": Setting(None, _unchecked),
}

# Flask's settings that decide who is signed in. A wrong one would fail late, or sign in anyone.
FLASK_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "PERMANENT_SESSION_LIFETIME": _lifetime,
    "SECRET_KEY": _optional_secret,
    "SECRET_KEY_FALLBACKS": _secrets,
    "SESSION_COOKIE_DOMAIN": _optional_text,
    "SESSION_COOKIE_HTTPONLY": _boolean,
    "SESSION_COOKIE_NAME": _text,
    "SESSION_COOKIE_PARTITIONED": _boolean,
    "SESSION_COOKIE_PATH": _optional_text,
    "SESSION_COOKIE_SAMESITE": _same_site,
    "SESSION_COOKIE_SECURE": _boolean,
    "SESSION_REFRESH_EACH_REQUEST": _boolean,
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
        app.config[name] = setting.check(name, app.config[name])
    for name, check in FLASK_CHECKS.items():
        if name in app.config:
            app.config[name] = check(name, app.config[name])


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


def load_vapid_signer(app: Flask, *, on_sqlite: bool) -> None:
    """Load the application's VAPID key and subject; on SQLite, generate and store a missing key.

    Raises ConfigurationError.
    """
    private_key = app.config["PUSH_VAPID_PRIVATE_KEY"]
    if not private_key:
        if not on_sqlite:
            raise ConfigurationError(
                "PUSH_VAPID_PRIVATE_KEY is not set: with a database server, set FLASK_PUSH_VAPID_PRIVATE_KEY "
                "to a key from `python -m pushapp vapid-keys`"
            )
        private_key = load_or_create_secret(app, "vapid_private_key", lambda: generate_key_pair().private)
    try:
        key_pair = load_key_pair(private_key)
    except ValueError:
        raise ConfigurationError(
            "PUSH_VAPID_PRIVATE_KEY must be the base64url of a 32-byte private key on P-256, as "
            "`python -m pushapp vapid-keys` prints it"
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
    if url.get_backend_name() == "sqlite":
        return url
    raise ConfigurationError(f"DATABASE_URL has {url.drivername}: only postgresql and sqlite are supported")


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
