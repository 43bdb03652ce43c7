"""Alive (`/healthz`), and ready to answer requests (`/readyz`)."""

from functools import cache
from typing import Any

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app
from flask_smorest import Blueprint
from flask_smorest.error_handler import ErrorSchema
from werkzeug.exceptions import ServiceUnavailable

from .database import autocommit
from .errors import RETRY_AFTER

blueprint = Blueprint("health", __name__, description="For load balancers and supervisors")


@blueprint.get("/healthz")
@blueprint.response(200)
def healthz() -> dict[str, Any]:
    """Say that the process is alive."""
    return {"ok": True}


@blueprint.get("/readyz")
@blueprint.alt_response(503, schema=ErrorSchema)
@blueprint.response(200)
def readyz() -> dict[str, Any]:
    """Say that the database can be reached and has the schema of this version."""
    with autocommit() as connection:
        applied = MigrationContext.configure(connection).get_current_revision()
    if not _serves(applied, _schemas(current_app.extensions["migrate"].directory)):
        raise ServiceUnavailable(
            "The database does not have this version's schema: run `flask --app wsgi db upgrade`.",
            retry_after=RETRY_AFTER,
        )
    return {"ok": True}


def _serves(applied: str | None, schemas: tuple[str, ...]) -> bool:
    # A later version's migrations leave this one working until it is replaced.
    is_later = applied is not None and applied.isdecimal() and applied > max(schemas)
    return applied in schemas or is_later


@cache
def _schemas(migrations: str) -> tuple[str, ...]:
    # The newest, and the one before it when all that the newest does is to take something away.
    newest = ScriptDirectory(migrations).get_revision("head")
    if getattr(newest.module, "takes_away", False):
        return newest.revision, str(newest.down_revision)
    return (newest.revision,)
