"""The newcomer's first minute: a page where one signs in under any name."""

from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, request, send_from_directory, session

from . import jobs, outbox
from .authentication import require_own_site, require_user
from .config import ConfigurationError
from .database import engine
from .errors import refuse
from .json_body import require_json
from .messages import Message
from .models import MAX_USER_ID_LENGTH

STATIC = Path(__file__).parent / "static"

blueprint = Blueprint("demo", __name__)
blueprint.before_request(require_own_site)


def init_app(app: Flask) -> None:
    """Let anybody on this machine sign in under any name.

    Raises ConfigurationError when a database server is configured: those users are real.
    """
    with app.app_context():
        if engine().dialect.name != "sqlite":
            raise ConfigurationError(
                "demo mode signs anybody in, so it refuses a database server: unset DATABASE_URL or PUSH_DEMO"
            )
    app.config["PUSH_DEMO"] = True
    app.config["SESSION_COOKIE_SECURE"] = False  # it is served over plain HTTP
    app.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost"]
    app.register_blueprint(blueprint)


@blueprint.get("/")
def page() -> Response:
    """Serve the page."""
    return send_from_directory(STATIC, "demo.html")


@blueprint.get("/demo/<any('demo.css', 'demo.js'):name>")
def file(name: str) -> Response:
    """Serve what the page is made of."""
    return send_from_directory(STATIC, name)


@blueprint.get("/demo/user")
def user() -> dict[str, Any]:
    """Say who is signed in."""
    return {"name": session.get("user_id")}


@blueprint.post("/demo/sign-in")
def sign_in() -> dict[str, Any]:
    """Sign in under the name that the page sends."""
    require_json()
    body = request.get_json()
    name = body.get("name") if isinstance(body, dict) else None
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_USER_ID_LENGTH or not name.isprintable():
        refuse(422, "The name must be 1 to 255 printable characters.")
    session.clear()
    session["user_id"] = name
    return {"name": name}


@blueprint.post("/demo/send")
def send() -> dict[str, Any]:
    """Send the user who is signed in a message, and say what became of it."""
    user_id = require_user()
    message = Message(
        title=f"Hello {user_id}", body="This came through your browser's push service.", navigate="/", ttl=60
    )
    status = outbox.status(jobs.send(message, to=user_id))
    return {"sent": status.sent, "gone": status.gone, "failed": status.failed}


@blueprint.post("/demo/sign-out")
def sign_out() -> dict[str, Any]:
    """Sign out."""
    session.clear()
    return {"name": None}
