"""Settings: their defaults, where they come from, and what is wrong with them."""

import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from .push_services import parse_origin

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

SITE_DEFAULTS: Mapping[str, Any] = {
    "PUSH_OPENAPI_URL_PREFIX": "/",
    "SESSION_COOKIE_NAME": "access_token",
    "SESSION_COOKIE_HTTPONLY": True,
    "SESSION_COOKIE_SAMESITE": "Lax",
    "SESSION_COOKIE_SECURE": True,
    # The site that signs users in owns the cookie: answering must not set it anew.
    "SESSION_REFRESH_EACH_REQUEST": False,
}

DEFAULT_DATABASE_URL = "sqlite:///pushapp.db"
POOL_TIMEOUT = 1  # seconds, for a place in the pool; on SQLite for the lock on the file
STATEMENT_TIMEOUT = 1_300  # milliseconds, kept by PostgreSQL


class ConfigurationError(Exception):
    """A setting is missing or wrong; the message says in one line what to set."""


def load_site(app: Flask, settings: Mapping[str, Any]) -> None:
    """Give pushapp's own application its settings: defaults, then the environment, then `settings`.

    Raises ConfigurationError when the database or the secret key cannot be used.
    """
    app.config.from_mapping(SITE_DEFAULTS)
    for name, variable in (("SQLALCHEMY_DATABASE_URI", "DATABASE_URL"), ("SECRET_KEY", "SECRET_KEY")):
        if value := os.environ.get(variable):
            app.config[name] = value
    app.config.from_prefixed_env()
    if secret := os.environ.get("FLASK_SECRET_KEY"):
        app.config["SECRET_KEY"] = secret  # as it stands: a secret of digits only is no number
    app.config.from_mapping(settings)

    url = database_url(app.config.get("SQLALCHEMY_DATABASE_URI") or DEFAULT_DATABASE_URL)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config.setdefault("SQLALCHEMY_ENGINE_OPTIONS", engine_options(url))
    if not app.config["SECRET_KEY"]:
        if not is_embedded(url):
            raise ConfigurationError(
                "SECRET_KEY is not set: with a database server, set it to the secret that signs your site's "
                "session cookie"
            )
        app.config["SECRET_KEY"] = kept_in_instance_folder(app, "secret_key", secrets.token_urlsafe)


def load_push(app: Flask) -> None:
    """Give any application the defaults of the `PUSH_…` settings, and check those it has.

    Raises ConfigurationError.
    """
    for name, default in PUSH_DEFAULTS.items():
        app.config.setdefault(name, default)
    for name in ("PUSH_BROWSER_HAS_ONE_USER", "PUSH_DEMO", "PUSH_METRICS"):
        app.config[name] = _boolean(name, app.config[name])
    for name in ("PUSH_ALLOWED_ORIGINS", "PUSH_TRUSTED_PUSH_SERVICES"):
        app.config[name] = _origins(name, app.config[name])
    tokens = app.config["PUSH_API_TOKENS"]
    if not isinstance(tokens, list | tuple) or not all(isinstance(one, str) and one for one in tokens):
        raise ConfigurationError(
            """PUSH_API_TOKENS must be a list of tokens, such as '["a long random text"]'"""
        )
    limit = app.config["PUSH_MAX_SUBSCRIPTIONS_PER_USER"]
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigurationError("PUSH_MAX_SUBSCRIPTIONS_PER_USER must be a whole number of at least 1")
    key = app.config["PUSH_SESSION_USER_KEY"]
    if not isinstance(key, str) or not key:
        raise ConfigurationError("PUSH_SESSION_USER_KEY must name a session member, such as user_id")


def database_url(text: str | URL) -> URL:
    """Return a database's URL with the driver spelled out (`postgres://` means psycopg 3).

    Raises ConfigurationError for what is neither PostgreSQL nor SQLite.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError("DATABASE_URL is no database URL like postgresql://user@host/name") from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if is_embedded(url):
        return url
    raise ConfigurationError(f"DATABASE_URL says {url.drivername}: only postgresql and sqlite are known")


def is_embedded(url: URL) -> bool:
    """Say whether a database lives in this process (SQLite) rather than in a server."""
    return url.get_backend_name() == "sqlite"


def engine_options(url: URL) -> dict[str, Any]:
    """Return SQLAlchemy's engine options for a database: bounded waits, and no values in error texts."""
    options: dict[str, Any] = {"hide_parameters": True}
    if is_embedded(url):
        return options | {"connect_args": {"timeout": POOL_TIMEOUT}}
    connect_args: dict[str, Any] = {"connect_timeout": 2}  # seconds
    if "options" not in url.query:
        # UTC, since a date in the year 9999 cannot be read in a zone that is ahead of it.
        connect_args["options"] = f"-c statement_timeout={STATEMENT_TIMEOUT} -c timezone=UTC"
    return options | {
        "pool_timeout": POOL_TIMEOUT,
        "connect_args": connect_args,
        # Most requests are one statement: no BEGIN, and nothing to roll back when the connection returns.
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
    }


def kept_in_instance_folder(app: Flask, name: str, make: Callable[[], str]) -> str:
    """Return the secret kept in the instance folder under `name`, made (mode 0600) when it is not there.

    Any number of processes may ask at once: all get the same.
    """
    kept = Path(app.instance_path, name)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        descriptor, fresh = tempfile.mkstemp(dir=kept.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(make())
                file.flush()
                os.fsync(descriptor)
            os.link(fresh, kept)
        except FileExistsError:
            pass  # another process was first: its secret counts
        finally:
            os.unlink(fresh)
    return kept.read_text().strip()


def let_processes_share_metrics(app: Flask) -> None:
    """Name a folder of the instance for what each process counts, unless PROMETHEUS_MULTIPROC_DIR does."""
    folder = os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(Path(app.instance_path, "metrics")))
    Path(folder).mkdir(parents=True, exist_ok=True)


def _boolean(name: str, value: object) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if (text := str(value).lower()) not in known:
        raise ConfigurationError(f"{name} must be true or false")
    return known[text]


def _origins(name: str, value: object) -> list[str]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ConfigurationError(f"""{name} must be a list of origins, such as '["https://example.com"]'""")
    try:
        return [parse_origin(origin) for origin in value]
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None
