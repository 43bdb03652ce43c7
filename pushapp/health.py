"""Alive (`/healthz`), and ready to answer requests (`/readyz`)."""

from functools import cache
from typing import Any

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import current_app
from flask_smorest import Blueprint
from flask_smorest.error_handler import ErrorSchema
from werkzeug.exceptions import ServiceUnavailable

from .errors import RETRY_AFTER
from .extensions import engine

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
    with engine().connect() as connection:
        applied = MigrationContext.configure(connection).get_current_heads()
    if set(applied) != _heads(current_app.extensions["migrate"].directory):
        raise ServiceUnavailable(
            "The database does not have this version's schema: run `flask --app wsgi db upgrade`.",
            retry_after=RETRY_AFTER,
        )
    return {"ok": True}


@cache
def _heads(migrations: str) -> set[str]:
    return set(ScriptDirectory(migrations).get_heads())
