"""Liveness (`/healthz`) and readiness (`/readyz`)."""

from typing import Any

from alembic.migration import MigrationContext
from flask_smorest import Blueprint
from flask_smorest.error_handler import ErrorSchema
from werkzeug.exceptions import ServiceUnavailable

from ..database import autocommit
from ..schema import VERSION_TABLE
from .errors import RETRY_AFTER

OLDEST_REVISION = "0006"  # the oldest migration this version works with; newer ones are compatible

blueprint = Blueprint("health", __name__, description="For load balancers and supervisors")


@blueprint.get("/healthz")
@blueprint.response(200)
def healthz() -> dict[str, Any]:
    """Liveness check."""
    return {"ok": True}


@blueprint.get("/readyz")
@blueprint.alt_response(503, schema=ErrorSchema)
@blueprint.response(200)
def readyz() -> dict[str, Any]:
    """Readiness check: the database is available, and its schema is up to date."""
    with autocommit() as connection:
        revision = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE}
        ).get_current_revision()
    if revision is None or not revision.isdecimal() or revision < OLDEST_REVISION:
        raise ServiceUnavailable(
            "The database schema is out of date: run `flask --app wsgi db upgrade`.",
            retry_after=RETRY_AFTER,
        )
    return {"ok": True}
