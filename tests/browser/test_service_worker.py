"""The service worker: what it shows, alone and inside the site's own worker."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pushapp.webpush.encryption import encrypt
from tests.browser.client import call, code
from tests.browser.firefox import Firefox
from tests.browser.mozilla import DECRYPTED, PushService
from tests.browser.site import Site
from tests.browser.test_renewal import wait_for_renewal
from tests.support.subscriptions import base64url

pytestmark = pytest.mark.slow

OWN_WORKER = {"Content-Type": "text/javascript"}
IMPORT = 'importScripts("/push/service-worker.js");'
# The site's registration, as a page passes it to client.js.
WITH_REGISTRATION = """
    const registration = await navigator.serviceWorker.register("/sw.js");
    const client = await import("/push/client.js");
    try {
        return { value: await client[args[0]]({ ...args[1], registration }) };
    } catch (error) {
        return { code: error.code, message: error.message };
    }
"""
TITLES = {
    "declarative": ({"web_push": 8030, "notification": {"title": "x", "navigate": "/"}}, "x"),
    "other JSON": ({"title": "x"}, "x"),
    "text": ("plain text", "plain text"),
    "a JSON string": (json.dumps("in quotes"), "in quotes"),
    "a number": ("5", "5"),
    "a list": ("[1, 2]", "[1, 2]"),
    "an empty object": ({}, "127.0.0.1"),
    "an empty title": ({"title": ""}, "127.0.0.1"),
    "a blank title": ({"title": " \n"}, "127.0.0.1"),
    "a title of null": ({"title": None}, "127.0.0.1"),
    "an empty JSON string": ('""', "127.0.0.1"),
    "blank text": ("  ", "127.0.0.1"),
    "a notification of null": ({"title": "x", "notification": None}, "x"),
    "an unknown dir": ({"title": "x", "dir": "left"}, "x"),
    "an action of null": ({"title": "x", "actions": [None]}, "x"),
    "an action without a title": ({"title": "x", "actions": [{"action": "a"}]}, "x"),
    "an action of numbers": ({"title": "x", "actions": [{"action": 1, "title": 2}]}, "x"),
    "actions that are no list": ({"title": "x", "actions": "mute"}, "x"),
    "renotify without tag": ({"title": "x", "renotify": True}, "x"),
    "silent with vibrate": ({"title": "x", "silent": True, "vibrate": [200]}, "x"),
    "an invalid icon": ({"title": "x", "icon": "http://["}, "x"),
    "an invalid language": ({"title": "x", "lang": "?"}, "x"),
    "a timestamp that is no number": ({"title": "x", "timestamp": {}}, "x"),
    "a badge": ({"title": "x", "app_badge": 3}, "x"),
    "an invalid badge": ({"title": "x", "app_badge": "many"}, "x"),
    "only nulls": (dict.fromkeys(["title", "body", "icon", "tag", "actions", "data", "dir", "vibrate"]), "127.0.0.1"),
}  # fmt: skip

Deliver = Callable[[Any], int]


@pytest.fixture
def subscribed(site: Site, firefox: Firefox) -> Firefox:
    site.subscribe(firefox, "alice")
    return firefox


@pytest.fixture
def deliver(site: Site, push_service: PushService) -> Deliver:
    """Deliver a payload to the only subscription: bytes, text or a value to send as JSON."""

    def to_subscription(payload: Any) -> int:
        (row,) = site.rows()
        content = (payload if isinstance(payload, str) else json.dumps(payload)).encode()
        body = encrypt(content, row.keys_p256dh, row.keys_auth)
        return push_service.deliver(row.endpoint, base64url(body))

    return to_subscription


@pytest.mark.parametrize("name", TITLES)
def test_whatever_arrives_is_shown(subscribed: Firefox, deliver: Deliver, name: str) -> None:
    payload, title = TITLES[name]
    assert deliver(payload) == DECRYPTED
    (notification,) = subscribed.notifications()
    assert notification["title"] == title


def test_only_the_invalid_option_is_left_out(subscribed: Firefox, deliver: Deliver) -> None:
    valid = {"action": "a", "title": "A", "navigate": "/a"}
    deliver(
        {"title": "x", "body": "text", "tag": "t", "lang": "de", "dir": "left", "data": 7, "actions": [None, valid]}
    )  # fmt: skip
    (notification,) = subscribed.notifications()
    shown = {name: notification[name] for name in ("body", "tag", "lang", "dir")}
    assert shown == {"body": "text", "tag": "t", "lang": "de", "dir": "auto"}
    assert [action["action"] for action in notification["actions"]] in (
        [],
        ["a"],
    )  # where the system has buttons
    assert notification["data"]["actions"] == {"a": "/a"}
    assert notification["data"]["siteData"] == 7


def test_members_of_null_are_left_out(subscribed: Firefox, deliver: Deliver) -> None:
    deliver({"title": "x", "body": None, "tag": None})
    (notification,) = subscribed.notifications()
    assert (notification["body"], notification["tag"]) == ("", "")


class TestInsideTheSitesWorker:
    @pytest.fixture
    def call_with_registration(self, site: Site, firefox: Firefox) -> Callable[..., Any]:
        """Call a function of client.js with the registration of /sw.js, as alice."""
        site.sign_in(firefox, "alice")
        firefox.open(f"{site.url}/")

        def call_it(function: str, **options: Any) -> Any:
            result = firefox.run(WITH_REGISTRATION, function, options)
            return result["value"] if "value" in result or result == {} else result

        return call_it

    @pytest.mark.parametrize("script", [IMPORT, IMPORT * 2], ids=["once", "twice"])
    def test_one_notification_is_shown(
        self,
        site: Site,
        firefox: Firefox,
        deliver: Deliver,
        call_with_registration: Callable[..., Any],
        script: str,
    ) -> None:
        site.pages["/sw.js"] = (script, OWN_WORKER)
        assert call_with_registration("subscribe") == {"ok": True, "count": 1}
        deliver({"title": "x"})
        deliver({"title": "y"})
        titles = "(await (await navigator.serviceWorker.ready).getNotifications()).map(({ title }) => title)"
        firefox.wait_until(f"({titles}).includes('y')")
        assert sorted(firefox.run(f"return {titles}")) == ["x", "y"]

    @pytest.mark.parametrize("is_copied", [False, True], ids=["imported", "copied"])
    def test_a_lost_subscription_is_renewed(
        self,
        site: Site,
        push_service: PushService,
        call_with_registration: Callable[..., Any],
        is_copied: bool,
    ) -> None:
        copy = site.app.test_client().get("/push/service-worker.js").text
        site.pages["/sw.js"] = (copy if is_copied else IMPORT, OWN_WORKER)
        call_with_registration("subscribe", user="alice")
        (before,) = site.rows()
        push_service.reset_user_agent()
        assert wait_for_renewal(site, push_service).id == before.id

    def test_all_functions_use_the_registration(
        self, site: Site, firefox: Firefox, call_with_registration: Callable[..., Any]
    ) -> None:
        site.pages["/sw.js"] = (IMPORT, OWN_WORKER)
        call_with_registration("subscribe", user="alice")
        assert call(firefox, "current") is None  # pushapp's own worker has none
        assert call_with_registration("resume", user="alice") == {"ok": True, "count": 1}
        registrations = (
            "(await navigator.serviceWorker.getRegistrations()).map((each) => each.active.scriptURL)"
        )
        assert firefox.run(f"return {registrations}") == [f"{site.url}/sw.js"]
        assert call_with_registration("unsubscribe") == {"ok": True, "count": 0}
        assert site.rows() == []

    def test_a_worker_without_the_listeners_is_named(
        self, site: Site, firefox: Firefox, call_with_registration: Callable[..., Any]
    ) -> None:
        site.pages["/sw.js"] = ("", OWN_WORKER)
        result = call_with_registration("subscribe")
        assert result["code"] == "worker"
        assert f"{site.url}/sw.js" in result["message"]
        assert "/push/service-worker.js" in result["message"]
        assert site.rows() == []

    def test_the_worker_of_the_site_stays_and_pushapp_has_its_own(
        self, site: Site, firefox: Firefox, deliver: Deliver
    ) -> None:
        site.pages["/sw.js"] = ("", OWN_WORKER)
        site.sign_in(firefox, "alice")
        firefox.open(f"{site.url}/")
        register = "await navigator.serviceWorker.register('/sw.js'); await navigator.serviceWorker.ready;"
        firefox.run(register)
        assert call(firefox, "subscribe") == {"ok": True, "count": 1}
        firefox.run(register)  # as each load of the site does
        workers = (
            "(await navigator.serviceWorker.getRegistrations()).map((each) => each.active.scriptURL).sort()"
        )
        assert firefox.run(f"return {workers}") == [f"{site.url}/push/service-worker.js", f"{site.url}/sw.js"]
        deliver({"title": "x"})
        assert [each["title"] for each in firefox.notifications()] == ["x"]
        assert call(firefox, "unsubscribe") == {"ok": True, "count": 0}
        assert call(firefox, "current") is None

    def test_a_page_below_a_foreign_scope_is_unsubscribed(self, site: Site, firefox: Firefox) -> None:
        site.pages["/app/sw.js"] = ("", OWN_WORKER)
        site.pages["/app/"] = site.pages["/"]
        site.sign_in(firefox, "alice")
        firefox.open(f"{site.url}/app/")
        firefox.run(
            "await navigator.serviceWorker.register('/app/sw.js'); await navigator.serviceWorker.ready"
        )
        assert call(firefox, "subscribe") == {"ok": True, "count": 1}
        assert call(firefox, "unsubscribe") == {"ok": True, "count": 0}
        assert site.rows() == []

    def test_a_registration_that_stays_pending_is_a_time_out(self, site: Site, firefox: Firefox) -> None:
        site.sign_in(firefox, "alice")
        firefox.open(f"{site.url}/")
        shorten = "const start = setTimeout; window.setTimeout = (work, time, ...rest) => start(work, Math.min(time, 300), ...rest);"
        pending = "args[1].registration = new Promise(() => {});"
        assert code(call(firefox, "subscribe", prepare=shorten + pending)) == "worker"
