"""A Flask application with pushapp, served for a browser."""

import threading
from pathlib import Path
from typing import Any

from flask import Flask, request
from flask.sessions import SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from sqlalchemy import text
from werkzeug.serving import make_server

from pushapp import create_app
from pushapp.database import engine
from tests.browser.firefox import Firefox
from tests.conftest import SETTINGS

EMPTY_PAGE = "<!doctype html><link rel=icon href='data:,'><title>Empty</title>"


class Site:
    """A site with an empty page, on its own port of 127.0.0.1.

    `pages` holds the HTML of further paths, or another response. Hooks and routes of one test can be added to
    `app`, until the first request and the next `start`.
    """

    def __init__(self, folder: Path, **settings: Any):
        self._folder = folder
        self._settings = SETTINGS | settings
        self._port = 0
        self.pages: dict[str, ResponseReturnValue] = {"/": EMPTY_PAGE}
        self.start()

    @property
    def url(self) -> str:
        """The origin, which stays the same after a restart."""
        return f"http://127.0.0.1:{self._port}"

    def start(self, **settings: Any) -> None:
        """Start the server; `settings` override those of the site."""
        self.app: Flask = create_app(self._settings | settings, instance_path=str(self._folder))
        self.app.before_request(lambda: self.pages.get(request.path))
        self._server = make_server("127.0.0.1", self._port, self.app, threaded=True)
        self._port = self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05])
        self._thread.start()

    def stop(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        with self.app.app_context():
            engine().dispose()

    def rows(self) -> list[Any]:
        """Return the stored subscriptions."""
        with self.app.app_context(), engine().connect() as connection:
            return list(connection.execute(text("SELECT * FROM push_subscriptions ORDER BY id")))

    def send(self, *arguments: str) -> str:
        """Run `flask push send`, and return what it prints."""
        result = self.app.test_cli_runner().invoke(args=["push", "send", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    def sign_in(self, firefox: Firefox, user: str) -> None:
        """Set the session cookie of a user."""
        serializer = SecureCookieSessionInterface().get_signing_serializer(self.app)
        assert serializer is not None
        firefox.set_cookie(self.app.config["SESSION_COOKIE_NAME"], serializer.dumps({"user_id": user}))

    def subscribe(self, firefox: Firefox, user: str) -> None:
        """Open the empty page as a user, and subscribe."""
        self.sign_in(firefox, user)
        firefox.open(f"{self.url}/")
        firefox.call_client("subscribe")
