"""Sends in tests: nothing leaves the process, and `pushapp.testing` sees what would have been sent."""

from collections.abc import Callable
from typing import Any

from flask import Flask, current_app

from ..webpush.message import Message


def is_suppressed(app: Flask) -> bool:
    """Return whether sends are suppressed: by PUSH_SUPPRESS_SEND, else by TESTING, or while captured."""
    setting: bool | None = app.config["PUSH_SUPPRESS_SEND"]
    return bool(captures(app)) or (app.testing if setting is None else setting)


def captures(app: Flask) -> list[list[tuple[Message, Any]]]:
    """Return the lists that sends are added to, one for each active `captured`."""
    active: list[list[tuple[Message, Any]]] = app.extensions.setdefault("push_captures", [])
    return active


def fake_browsers(app: Flask) -> dict[str, Callable[[bytes], None]]:
    """Return what takes the encrypted messages to fake browsers, by endpoint."""
    browsers: dict[str, Callable[[bytes], None]] = app.extensions.setdefault("push_fake_browsers", {})
    return browsers


def capture(message: Message, to: Any) -> None:
    """Add a message, and to whom it was sent, to the active captures."""
    for sent in captures(current_app):
        sent.append((message, to))
