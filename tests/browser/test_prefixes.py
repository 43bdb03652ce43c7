"""Several pushapps on one origin, each below its own prefix."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask, Response
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server

from pushapp import create_app
from pushapp.testing import create_tables
from pushapp.webpush.vapid import generate_key_pair
from tests.browser.client import call
from tests.browser.firefox import Firefox
from tests.browser.mozilla import PushService
from tests.browser.site import EMPTY_PAGE
from tests.conftest import SETTINGS
from tests.support.http import rows
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

PREFIXES = ("/a", "/b")
# Each application is told by the test who is signed in: cookies are shared by the origin.
USER = {"PUSH_SESSION_USER_KEY": "user_id"}


class Origin:
    """Two applications below /a and /b."""

    def __init__(self, folder: Path, push_service: PushService):
        self.apps: dict[str, Flask] = {}
        for prefix in PREFIXES:
            settings = SETTINGS | {
                "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder}/{prefix[1:]}.db",
                "PUSH_TRUSTED_PUSH_SERVICES": [push_service.origin],
                "PUSH_VAPID_PRIVATE_KEY": generate_key_pair().private,
            }
            app = create_app(settings, instance_path=str(folder / prefix[1:]))
            create_tables(app)
            app.extensions["push_user_id"] = lambda: "alice"
            self.apps[prefix] = app
        root = Response(EMPTY_PAGE, mimetype="text/html")
        self.server = make_server("127.0.0.1", 0, DispatcherMiddleware(root, {**self.apps}), threaded=True)
        self.url = f"http://127.0.0.1:{self.server.port}"


@pytest.fixture
def origin(tmp_path: Path, shared_push_service: PushService) -> Iterator[Origin]:
    origin = Origin(tmp_path, shared_push_service)
    thread = threading.Thread(target=origin.server.serve_forever, args=[0.05])
    thread.start()
    yield origin
    origin.server.shutdown()
    thread.join()
    origin.server.server_close()


def test_each_has_its_own_subscription_and_renews_it(
    firefox: Firefox, push_service: PushService, origin: Origin
) -> None:
    firefox.open(f"{origin.url}/")
    for prefix in PREFIXES:
        module = f"{prefix}/push/client.js"
        assert call(firefox, "subscribe", module=module, user="alice") == {"ok": True, "count": 1}
    before = {prefix: rows(origin.apps[prefix]) for prefix in PREFIXES}
    for prefix in PREFIXES:  # a load of each changes nothing
        module = f"{prefix}/push/client.js"
        assert call(firefox, "resume", module=module, user="alice") == {"ok": True, "count": 1}
    assert {prefix: rows(origin.apps[prefix]) for prefix in PREFIXES} == before
    assert len({row.endpoint for (row,) in before.values()}) == 2

    push_service.reset_user_agent()

    def are_renewed() -> bool:
        endpoints = {row.endpoint for app in origin.apps.values() for row in rows(app)}
        return endpoints == set(push_service.channels) and len(endpoints) == 2

    wait_until(are_renewed)
    assert {prefix: [row.id for row in rows(app)] for prefix, app in origin.apps.items()} == {
        prefix: [row.id for row in stored] for prefix, stored in before.items()
    }
    assert call(firefox, "unsubscribe", module="/a/push/client.js") == {"ok": True, "count": 0}
    assert call(firefox, "resume", module="/a/push/client.js", user="alice") is None
    assert call(firefox, "resume", module="/b/push/client.js", user="alice") == {"ok": True, "count": 1}
