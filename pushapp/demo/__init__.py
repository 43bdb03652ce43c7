"""Demo site without passwords, for localhost only."""

from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, request, send_from_directory, session

from .. import subscriptions
from ..config import ConfigurationError
from ..database import engine
from ..models import MAX_USER_ID_LENGTH
from ..sending import outbox
from ..sending.status import status
from ..web.auth import reject_cross_site, require_user
from ..web.errors import abort
from ..web.parsing import require_json
from ..webpush.message import Message

ASSETS = Path(__file__).parent

blueprint = Blueprint("demo", __name__)
blueprint.before_request(reject_cross_site)


def init_app(app: Flask) -> None:
    """Enable the demo.

    Raises ConfigurationError on a database server: its users are real.
    """
    with app.app_context():
        if engine().dialect.name != "sqlite":
            raise ConfigurationError(
                "demo mode has no passwords, so it only runs on SQLite: unset DATABASE_URL or PUSH_DEMO"
            )
    app.config["PUSH_DEMO"] = True
    app.config["SESSION_COOKIE_SECURE"] = False  # it is served over plain HTTP
    app.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost"]
    app.register_blueprint(blueprint)


@blueprint.get("/")
def page() -> Response:
    """Serve the page."""
    return send_from_directory(ASSETS, "demo.html")


@blueprint.get("/demo/<any('demo.css', 'demo.js', 'icon.png', 'manifest.webmanifest'):name>")
def asset(name: str) -> Response:
    """Serve the page's style sheet and script, and what installs it as an application."""
    return send_from_directory(ASSETS, name)


@blueprint.get("/demo/user")
def user() -> dict[str, Any]:
    """Return the signed-in user."""
    return {"name": session.get("user_id")}


@blueprint.post("/demo/sign-in")
def sign_in() -> dict[str, Any]:
    """Set the signed-in user."""
    require_json()
    body = request.get_json()
    name = body.get("name") if isinstance(body, dict) else None
    name = name.strip() if isinstance(name, str) else ""
    if not 1 <= len(name) <= MAX_USER_ID_LENGTH or not name.isprintable():
        abort(422, "The name must be 1 to 255 printable characters.")
    session.clear()
    session["user_id"] = name
    return {"name": name}


@blueprint.post("/demo/device")
def device() -> dict[str, Any]:
    """Return the id of the signed-in user's subscription with an endpoint, or null."""
    user_id = require_user()
    require_json()
    body = request.get_json()
    endpoint = body.get("endpoint") if isinstance(body, dict) else None
    if not isinstance(endpoint, str) or not endpoint.isascii():
        abort(422, "The endpoint must be ASCII text.")
    return {"id": subscriptions.id_of(user_id, endpoint)}


@blueprint.post("/demo/send")
def send() -> dict[str, Any]:
    """Send the signed-in user a message, and return the delivery counts."""
    user_id = require_user()
    message = Message(
        title=f"Hello {user_id}", body="This came through your browser's push service.", navigate="/", ttl=60
    )
    sent = status(outbox.send(message, to=user_id))
    return {"sent": sent.sent, "gone": sent.gone, "failed": sent.failed}


@blueprint.post("/demo/sign-out")
def sign_out() -> dict[str, Any]:
    """Sign out."""
    session.clear()
    return {"name": None}
