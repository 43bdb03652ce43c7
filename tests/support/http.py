"""Requests to an application's test client and to running servers, and the rows they store."""

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from pushapp.database import engine


def rows(app: Flask) -> list[Any]:
    """Return the stored subscriptions, oldest first."""
    with app.app_context(), engine().connect() as connection:
        return list(connection.execute(text("SELECT * FROM push_subscriptions ORDER BY id")))


def expire(app: Flask, number: int = 1) -> None:
    """Set the expiration time of the oldest subscriptions into the past."""
    oldest = f"SELECT id FROM push_subscriptions ORDER BY id LIMIT {number}"
    with app.app_context(), engine().begin() as connection:
        connection.execute(
            text(f"UPDATE push_subscriptions SET expires_at = '2020-01-01 00:00:00' WHERE id IN ({oldest})")
        )


def post(client: FlaskClient, body: object, path: str = "/push/subscribe", **options: Any) -> Any:
    """Post JSON, and return the response."""
    return client.post(path, json=body, **options)


def post_raw(client: FlaskClient, data: str | bytes, **options: Any) -> Any:
    """Post a body, declared to be JSON, to /push/subscribe, and return the response."""
    return client.post("/push/subscribe", data=data, content_type="application/json", **options)


def fetch(
    url: str, body: object = None, context: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, Any]:
    """Request a URL, with POST if there is a body; return the status and the body, parsed if it is JSON."""
    data = None if body is None else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | names)
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as response:
            content = response.read()
            is_json = "json" in response.headers["Content-Type"]
            return response.status, json.loads(content) if is_json else content
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
