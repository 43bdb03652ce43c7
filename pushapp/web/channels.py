"""The routes of browsers for channels: those in PUSH_CHANNELS."""

from typing import Any

from flask import current_app

from .. import channels
from . import errors
from .auth import require_user
from .routes import blueprint, openapi_docs
from .schemas import ChannelsSchema

CHANNEL = "/channels/<name>"


@blueprint.get("/channels")
@blueprint.doc(**openapi_docs(401, 503))
@blueprint.response(200, ChannelsSchema)
def list_channels() -> dict[str, Any]:
    """List the channels that users can join, and whether the current user has."""
    joined = channels.channels_of(require_user())
    names = current_app.config["PUSH_CHANNELS"]
    return {"channels": [{"name": name, "joined": name in joined} for name in names]}


@blueprint.put(CHANNEL)
@blueprint.doc(**openapi_docs(401, 403, 404, 503))
@blueprint.response(204)
def join_channel(name: str) -> None:
    """Make the current user a member of a channel."""
    channels.join(require_user(), _existing(name))


@blueprint.delete(CHANNEL)
@blueprint.doc(**openapi_docs(401, 403, 404, 503))
@blueprint.response(204)
def leave_channel(name: str) -> None:
    """End the current user's membership of a channel."""
    channels.leave(require_user(), _existing(name))


def _existing(name: str) -> str:
    if name not in current_app.config["PUSH_CHANNELS"]:
        errors.abort(404, "There is no channel with this name.")
    return name
