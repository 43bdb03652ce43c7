"""Checks of a deployment: settings, keys, the database, its clock, workers."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask, current_app
from flask.globals import app_ctx
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from .. import keys
from ..config import DEFAULT_DATABASE_URL
from ..database import autocommit, engine, summarize
from ..schema import VERSION_TABLE, alembic_config
from .queue import workers_alive

MIN_SECRET_LENGTH = 16  # characters
MAX_CLOCK_SKEW = timedelta(seconds=5)
OLDEST_POSTGRESQL = (14,)
UPGRADE = "run `flask push db upgrade`"


class Finding(NamedTuple):
    """What a check found: all right, or a sentence that says what to do."""

    is_ok: bool
    text: str


def check_settings() -> Iterator[Finding]:
    """Check what the start accepts and a public site should not have."""
    app = app_ctx.app
    yield _check_keys(app)
    yield _check_secret(app)
    yield _check_tokens(app)
    if app.config["PUSH_DEMO"]:
        yield Finding(False, "PUSH_DEMO signs anyone in under any name: unset it on a public site")
    if app.config["PUSH_METRICS"]:
        yield Finding(True, "metrics: at /metrics without a password, so the proxy must deny it to others")


def check_database() -> list[Finding]:
    """Check the database, its tables, its clock, and that workers are alive.

    Without a connection, or without tables, the checks that need them are left out.
    """
    try:
        with autocommit() as connection:
            findings = [_check_server(connection), _check_migrations(connection)]
            if connection.dialect.name == "postgresql":
                findings.append(_check_clock(connection))
                if findings[1].is_ok:
                    findings.append(_check_workers(connection))
            return findings
    except SQLAlchemyError as error:
        reason = summarize(error)
        if isinstance(error, DBAPIError) and error.statement is None:  # it could not connect
            reason = " ".join(str(error.orig).split())
        name, host = engine().url.database, engine().url.host
        where = f"the database {name} at {host}" if host else f"the database {name}"
        return [Finding(False, f"{where} is unavailable: start it, or correct DATABASE_URL ({reason})")]


def _check_keys(app: Flask) -> Finding:
    subject = app.config["PUSH_VAPID_SUBJECT"]
    if subject is None:
        return Finding(
            False,
            "PUSH_VAPID_SUBJECT is not set, and Apple refuses messages without it: set your contact, such as"
            " mailto:you@your-site.org",
        )
    return Finding(True, f"VAPID: public key {keys.signers().public_key}, subject {subject}")


def _check_secret(app: Flask) -> Finding:
    secret = app.config["SECRET_KEY"]
    if secret is None and not app.extensions["push_user_id"]:
        return Finding(
            False, "SECRET_KEY is not set, so no user is signed in: set it, or pass init_app a user_id"
        )
    if secret is not None and len(secret) < MIN_SECRET_LENGTH:
        return Finding(
            False,
            f"SECRET_KEY has {len(secret)} characters, so sessions can be forged: set a random one of"
            f" {MIN_SECRET_LENGTH} or more",
        )
    return Finding(True, f"SECRET_KEY: {len(secret)} characters" if secret else "sign-in: by user_id alone")


def _check_tokens(app: Flask) -> Finding:
    tokens = app.config["PUSH_API_TOKENS"]
    if any(len(token) < MIN_SECRET_LENGTH for token in tokens):
        return Finding(
            False,
            f"PUSH_API_TOKENS has a token of less than {MIN_SECRET_LENGTH} characters, which can be guessed:"
            " set long random ones",
        )
    if not tokens:
        return Finding(True, "PUSH_API_TOKENS: none, so the messages API and the dashboard are off")
    return Finding(True, f"PUSH_API_TOKENS: {len(tokens)}")


def _check_server(connection: Connection) -> Finding:
    url = engine().url
    if connection.dialect.name == "sqlite":
        is_default = str(current_app.config["SQLALCHEMY_DATABASE_URI"]) == DEFAULT_DATABASE_URL
        if is_default and not (current_app.debug or current_app.config["PUSH_DEMO"]):
            return Finding(
                False,
                f"DATABASE_URL is not set, so the data is in {url.database}: set a postgresql:// URL, or the"
                " sqlite:/// URL of a file that outlives deployments",
            )
        return Finding(True, f"database: SQLite in {url.database or 'memory'}; `send` delivers by itself")
    version = connection.dialect.server_version_info or ()
    number = ".".join(str(part) for part in version)
    if version < OLDEST_POSTGRESQL:
        return Finding(False, f"PostgreSQL is {number}: upgrade it to {OLDEST_POSTGRESQL[0]} or later")
    if connection.execute(select(func.pg_is_in_recovery())).scalar():
        return Finding(False, f"{url.host} is a read-only standby: set DATABASE_URL to the primary")
    return Finding(True, f"database: PostgreSQL {number}, {url.database} at {url.host or 'this machine'}")


def _check_migrations(connection: Connection) -> Finding:
    options = {"version_table": VERSION_TABLE}
    current = MigrationContext.configure(connection, opts=options).get_current_revision()
    script = ScriptDirectory.from_config(alembic_config())
    newest = script.get_current_head()
    if current is None:
        return Finding(False, f"the database has no tables of pushapp's: {UPGRADE}")
    if current == newest:
        return Finding(True, f"migrations: at {current}, the newest")
    if current not in {revision.revision for revision in script.walk_revisions()}:
        return Finding(True, f"migrations: at {current}, newer than this version's {newest}")
    return Finding(
        False, f"the database is at migration {current}, this version's newest is {newest}: {UPGRADE}"
    )


def _check_clock(connection: Connection) -> Finding:
    before = datetime.now(UTC)
    database_time: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    round_trip = datetime.now(UTC) - before
    skew = before + round_trip / 2 - database_time
    if abs(skew) > MAX_CLOCK_SKEW + round_trip / 2:
        seconds = abs(skew).total_seconds()
        direction = "ahead of" if skew > timedelta() else "behind"
        return Finding(
            False, f"this machine's clock is {seconds:.0f} s {direction} the database's: set both by NTP"
        )
    return Finding(True, f"clock: {abs(skew).total_seconds():.1f} s from the database's")


def _check_workers(connection: Connection) -> Finding:
    alive = workers_alive(connection)
    if not alive:
        return Finding(False, "no worker is alive, so messages stay queued: start `flask push worker`")
    return Finding(True, f"workers: {alive} alive")
