"""client.js and the service worker in Chromium, where it differs from Firefox."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from flask.sessions import SecureCookieSessionInterface

from pushapp.webpush.encryption import encrypt
from tests.browser.chromium import PROGRAM, Chromium
from tests.browser.client import call
from tests.browser.google import PushService
from tests.browser.site import EMPTY_PAGE, Site
from tests.browser.test_clicks import PAGE
from tests.support.deployment import certificate
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")]

TRUSTED_TYPES = {"Content-Security-Policy": "require-trusted-types-for 'script'; trusted-types pushapp"}
# What the worker does with the browser is recorded.
RECORD = """
    self.calls = [];
    self.clients.openWindow = async (url) => void calls.push(["open", new URL(url).pathname]);
    WindowClient.prototype.focus = async function () { calls.push(["focus", new URL(this.url).pathname]); return this; };
    navigator.setAppBadge = async (number) => void calls.push(["badge", number]);
    navigator.clearAppBadge = async () => void calls.push(["clear"]);
"""
CLICK = """
    const [notification] = await registration.getNotifications();
    self.dispatchEvent(new NotificationEvent("notificationclick", { notification }));
"""


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PushService]:
    folder = tmp_path_factory.mktemp("google")
    certificate(folder)
    with closing(PushService(folder / "example.com.pem", folder / "example.com.key")) as push_service:
        yield push_service


@pytest.fixture(scope="module")
def browser(google: PushService) -> Iterator[Chromium]:
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        closing(Chromium(Path(profile), google)) as chromium,
    ):
        yield chromium


@pytest.fixture
def chromium(browser: Chromium, site: Site) -> Chromium:
    """The browser of alice, on the site's empty page."""
    browser._connection.events.clear()  # notifications() counts those of this test
    browser.allow_notifications(site.url)
    browser.open(f"{site.url}/")
    serializer = SecureCookieSessionInterface().get_signing_serializer(site.app)
    assert serializer is not None
    name = site.app.config["SESSION_COOKIE_NAME"]
    browser.run("document.cookie = args[0]", f"{name}={serializer.dumps({'user_id': 'alice'})}; path=/")
    return browser


@pytest.fixture
def subscribed(chromium: Chromium) -> Chromium:
    assert call(chromium, "subscribe", user="alice") == {"ok": True, "count": 1}
    return chromium


def deliver(site: Site, google: PushService, payload: bytes) -> None:
    (row,) = site.rows()
    google.deliver(row.endpoint, encrypt(payload, row.keys_p256dh, row.keys_auth))


def run_in_worker(chromium: Chromium, site: Site, script: str) -> Any:
    """Run the body of an async function in the running worker, and return its result."""
    targets = chromium._call("Target.getTargets")["targetInfos"]
    (worker,) = [
        each for each in targets if each["type"] == "service_worker" and each["url"].startswith(site.url)
    ]
    session = chromium._call("Target.attachToTarget", targetId=worker["targetId"], flatten=True)["sessionId"]
    parameters = {
        "expression": f"(async () => {{ {script} }})()",
        "awaitPromise": True,
        "returnByValue": True,
    }
    response = chromium._connection.call("Runtime.evaluate", parameters, sessionId=session)
    assert "exceptionDetails" not in response, response["exceptionDetails"]
    return response["result"].get("value")


@pytest.mark.parametrize(
    "payload",
    [
        b'{"title": "x", "renotify": true}',
        b'{"title": "x", "silent": true, "vibrate": [200]}',
        b'{"title": "x", "dir": "left"}',
        b'{"title": "x", "actions": [null, {"action": "a", "title": "A", "icon": "http://["}]}',
        b'{"title": "x", "timestamp": "never", "icon": "http://[", "vibrate": "long"}',
        b'{"title": "x", "actions": [{"action": "a", "title": "A", "type": "fax"}], "requireInteraction": {}}',
        b'"x"',
        b"x",
    ],
)
def test_an_invalid_option_costs_the_option_only(
    site: Site, google: PushService, subscribed: Chromium, payload: bytes
) -> None:
    deliver(site, google, payload)
    (notification,) = subscribed.notifications()
    assert notification["title"] == "x"


def test_a_blank_push_is_shown(site: Site, google: PushService, subscribed: Chromium) -> None:
    deliver(site, google, b" ")
    (notification,) = subscribed.notifications()
    assert notification["title"] == "127.0.0.1"


def test_a_subscription_is_resumed_and_ended(site: Site, subscribed: Chromium) -> None:
    (row,) = site.rows()
    assert row.label.endswith(" on Linux")
    assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}
    assert site.rows() == [row]
    assert call(subscribed, "resume", user="bob") is None
    assert subscribed.subscription() is None
    assert call(subscribed, "unsubscribe") is None


def test_the_client_works_where_scripts_need_trusted_types(site: Site, chromium: Chromium) -> None:
    site.pages["/"] = (EMPTY_PAGE, TRUSTED_TYPES)
    chromium.open(f"{site.url}/")
    assert call(chromium, "subscribe") == {"ok": True, "count": 1}
    assert call(chromium, "resume") == {"ok": True, "count": 1}


def test_the_app_badge_is_set_and_cleared(site: Site, google: PushService, subscribed: Chromium) -> None:
    deliver(site, google, b'{"title": "start"}')
    subscribed.notifications(1)
    run_in_worker(subscribed, site, RECORD)
    deliver(site, google, b'{"web_push": 8030, "notification": {"title": "x"}, "app_badge": 3}')
    subscribed.notifications(2)
    deliver(site, google, b'{"title": "y", "app_badge": 0}')
    subscribed.notifications(3)
    deliver(site, google, b'{"title": "z", "app_badge": "many"}')
    subscribed.notifications(4)
    assert run_in_worker(subscribed, site, "return calls") == [["badge", 3], ["clear"]]


@pytest.mark.parametrize(
    "case",
    [
        ("/inbox", None, "/inbox", ["focus", "/inbox"]),
        ("/inbox#x", None, "/inbox", ["focus", "/inbox"]),
        ("/home", "/inbox", "/inbox", ["focus", "/home"]),
        ("/inbox", "/home", "/inbox", ["open", "/inbox"]),
        ("/home", None, "http://[", ["open", "/"]),
        ("/home", None, "javascript:alert(1)", ["open", "/"]),
        ("/home", None, None, ["open", "/"]),
    ],
)
def test_a_click_finds_the_window_that_shows_the_target_now(
    site: Site,
    google: PushService,
    subscribed: Chromium,
    case: tuple[str, str | None, str | None, list[str]],
) -> None:
    opened, moved, target, expected = case
    site.pages["/inbox"] = site.pages["/home"] = PAGE
    subscribed.open(site.url + opened)
    if moved is not None:
        subscribed.run("history.pushState(null, '', args[0])", moved)
    navigate = "" if target is None else f', "navigate": "{target}"'
    deliver(site, google, f'{{"title": "x"{navigate}}}'.encode())
    subscribed.notifications(1)
    run_in_worker(subscribed, site, RECORD + CLICK)
    wait_until(lambda: run_in_worker(subscribed, site, "return calls"), 5)
    assert run_in_worker(subscribed, site, "return calls") == [expected]
    subscribed.notifications(0)
