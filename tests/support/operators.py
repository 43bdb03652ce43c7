"""Commands for operators, and the browsers that they tell about."""

from typing import Any

from flask import Flask

from tests.conftest import signed_in
from tests.support.http import post, rows


def push(app: Flask, *arguments: str, exit_code: int = 0) -> str:
    """Run `flask push …`, and return what it prints: neither endpoints nor keys."""
    done = app.test_cli_runner().invoke(args=["push", *arguments])
    assert done.exit_code == exit_code, done.output
    for row in rows(app):
        assert row.endpoint not in done.output
        assert row.keys_auth not in done.output
    return done.output


def subscribe(app: Flask, user: str, body: dict[str, Any], **fields: str) -> dict[str, Any]:
    """Store a user's subscription."""
    assert post(signed_in(app, user), body | fields).status_code == 200
    return body
