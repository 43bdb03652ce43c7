"""The dashboard for operators: read-only pages below /push/dashboard."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, send_from_directory, url_for
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ..database import autocommit, is_transient, summarize
from ..diagnostics import messages, queue
from ..sending import statistics, status
from ..sending.clock import database_time
from ..web import routes
from ..web.auth import require_password
from ..web.errors import RETRY_AFTER, abort
from . import charts

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
DAYS = 30
NEWEST_MESSAGES = 20

# An environment of its own: a host's templates, context processors and filters stay out.
templates = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.globals |= {"url_for": url_for, "outcomes": charts.OUTCOMES}
templates.filters |= {
    "number": charts.number,
    "time": charts.time,
    "day": charts.day,
    "duration": charts.duration,
}

blueprint = Blueprint("dashboard", __name__, url_prefix="/dashboard")
blueprint.before_request(require_password)


@blueprint.after_request
def restrict_content(response: Response) -> Response:
    """Allow the pages nothing but their own style sheet and script."""
    response.headers["Content-Security-Policy"] = (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    return response


@blueprint.get("")
def overview() -> Response:
    """Show subscriptions, queue, messages and push services."""

    def read(connection: Connection) -> dict[str, Any]:
        now = database_time(connection)
        today = now.date()
        days = [today - timedelta(days=ago) for ago in reversed(range(DAYS))]
        counts = statistics.daily_counts(connection, days[0])
        newest = messages.newest_ids(connection, NEWEST_MESSAGES)
        scheduled = messages.scheduled_ids(connection, now)
        ids = {*newest, *messages.under_way_ids(connection, now), *scheduled}
        services = messages.outcomes_by_push_service(connection)
        return {
            "subscriptions": charts.Subscriptions.of(days, counts),
            "queue": queue.read_queue(connection, now),
            "messages": [charts.of_message(each) for each in status.load(connection, ids)],
            "services": charts.of_push_services(services),
            "recent": messages.RECENT_MESSAGES,
        }

    return _render("overview.html", read)


@blueprint.get("/messages/<int:message_id>")
def message(message_id: int) -> Response:
    """Show one message's outcomes by push service."""

    def read(connection: Connection) -> dict[str, Any]:
        found = status.load(connection, [message_id])
        if not found:
            abort(404, "There is no message with this id.")
        services = messages.outcomes_by_push_service(connection, message_id)
        return {"message": charts.of_message(found[0]), "services": charts.of_push_services(services)}

    return _render("message.html", read)


@blueprint.get("/<any('dashboard.css', 'dashboard.js', 'icon.svg'):name>")
def asset(name: str) -> Response:
    """Serve the pages' style sheet, script and icon."""
    return send_from_directory(FOLDER, name)


def _render(template: str, read: Callable[[Connection], dict[str, Any]]) -> Response:
    now = datetime.now(UTC)
    try:
        with autocommit() as connection:
            values = read(connection)
    except SQLAlchemyError as error:
        if not is_transient(error):
            raise
        logger.warning("dashboard: database unavailable: %s", summarize(error))
        page = templates.get_template("unavailable.html").render(now=now)
        return Response(page, 503, {"Retry-After": str(RETRY_AFTER)}, mimetype="text/html")
    return Response(templates.get_template(template).render(now=now, **values), mimetype="text/html")


# Flask's method, since flask-smorest's would describe the pages in the OpenAPI document. At import: an
# application registers the outer blueprint, whose prefix and JSON errors hold here too, after that.
Blueprint.register_blueprint(routes.blueprint, blueprint)
