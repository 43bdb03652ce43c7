"""Commands for operators, and the browsers that they tell about."""

from typing import Any

from click.testing import Result
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


def check(app: Flask, *arguments: str) -> Result:
    """Run `flask push check`."""
    return app.test_cli_runner().invoke(args=["push", "check", *arguments])


def to_fix(done: Result) -> list[str]:
    """Return the lines of `flask push check` that say what to fix."""
    assert done.exit_code == (1 if "\nfix" in f"\n{done.stdout}" else 0), done.output
    lines = done.stdout.splitlines()
    assert all(line.startswith(("ok   ", "fix  ")) for line in lines)
    return [line[5:] for line in lines if line.startswith("fix")]
