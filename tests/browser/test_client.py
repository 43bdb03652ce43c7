"""client.js: what each function does to the browser and the server, and the errors that users see."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Response, redirect, request, request_started

from pushapp.webpush.vapid import generate_key_pair
from tests.browser.client import call, code
from tests.browser.firefox import Firefox
from tests.browser.mozilla import PushService
from tests.browser.site import EMPTY_PAGE, Site

pytestmark = pytest.mark.slow

DEFAULT_PERMISSION = "permissions.default.desktop-notification"
SUBSCRIBE, KEY = "/push/subscribe", "/push/vapid-public-key"
# Timers of the page end after at most 0.3 s.
SHORT_TIMERS = """
    const { setTimeout: start } = window;
    window.setTimeout = (work, time, ...rest) => start(work, Math.min(time, 300), ...rest);
    const timeout = AbortSignal.timeout.bind(AbortSignal);
    AbortSignal.timeout = (time) => timeout(Math.min(time, 300));
"""
FAILURES = {
    "signed-out": (401, {"code": 401, "status": "Unauthorized"}, "signed-out"),
    "401 of a proxy": (401, "<h1>Sign in</h1>", "signed-out"),
    "403": (403, {"code": 403, "status": "Forbidden"}, "refused"),
    "403 of a proxy": (403, "<h1>Forbidden</h1>", "unreachable"),
    "404 of a proxy": (404, "<h1>Not Found</h1>", "unreachable"),
    "other JSON": (403, {"error": "forbidden"}, "unreachable"),
    "500": (500, {"code": 500, "status": "Internal Server Error"}, "unreachable"),
    "503": (503, {"code": 503, "status": "Service Unavailable"}, "unreachable"),
    "502 of a proxy": (502, "<h1>Bad Gateway</h1>", "unreachable"),
    "HTML": (200, "<h1>Welcome</h1>", "unreachable"),
    "other JSON that is no error": (200, {"hello": "world"}, "unreachable"),
}


@pytest.fixture
def alice(site: Site, firefox: Firefox) -> Firefox:
    """The browser of alice, on the site's empty page, without a subscription."""
    sign_in(site, firefox, "alice")
    return firefox


@pytest.fixture
def subscribed(alice: Firefox) -> Firefox:
    """The browser of alice with a subscription."""
    assert call(alice, "subscribe", user="alice") == {"ok": True, "count": 1}
    return alice


def sign_in(site: Site, firefox: Firefox, user: str) -> None:
    site.sign_in(firefox, user)
    firefox.open(f"{site.url}/")


def sign_out(site: Site, firefox: Firefox) -> None:
    firefox.set_cookie(site.app.config["SESSION_COOKIE_NAME"], "x")
    firefox.open(f"{site.url}/")


def slowly(*parts: bytes) -> Iterator[bytes]:
    for part in parts:
        time.sleep(3)
        yield part


@contextmanager
def failure(site: Site, status: int, content: Any, path: str = SUBSCRIBE) -> Iterator[None]:
    """Let a path fail."""
    site.pages[path] = (content, status)
    yield
    del site.pages[path]


@contextmanager
def requests_of(site: Site) -> Iterator[list[tuple[str, str]]]:
    """Record the method and path of each request."""
    requests: list[tuple[str, str]] = []

    def record(_app: object) -> None:
        requests.append((request.method, request.path))

    with request_started.connected_to(record, site.app):
        yield requests


def row_of(site: Site) -> Any:
    (row,) = site.rows()
    return row


class TestResume:
    def test_without_permission_nothing_happens(self, site: Site, alice: Firefox) -> None:
        alice.set_preferences({DEFAULT_PERMISSION: 0})
        with requests_of(site) as requests:
            assert call(alice, "resume", user="alice") is None
        assert requests in ([("GET", "/push/client.js")], [])

    def test_without_subscription_and_wish_nothing_happens(self, site: Site, alice: Firefox) -> None:
        assert call(alice, "resume", user="alice") is None
        assert call(alice, "resume") is None
        assert site.rows() == []

    def test_an_up_to_date_subscription_takes_one_request(self, site: Site, subscribed: Firefox) -> None:
        before = row_of(site)
        with requests_of(site) as requests:
            assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}
        assert [each for each in requests if each[1] != "/push/client.js"] == [("POST", SUBSCRIBE)]
        assert row_of(site) == before

    def test_a_page_that_does_not_tell_users_apart_resumes(self, site: Site, alice: Firefox) -> None:
        call(alice, "subscribe")
        assert call(alice, "resume") == {"ok": True, "count": 1}
        assert call(alice, "unsubscribe") == {"ok": True, "count": 0}
        assert call(alice, "resume") is None
        assert site.rows() == []

    def test_a_lost_subscription_is_made_again_in_the_same_row(self, site: Site, subscribed: Firefox) -> None:
        before = row_of(site)
        lose_subscription(subscribed)
        assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}
        after = row_of(site)
        assert after.endpoint != before.endpoint
        assert (after.id, after.label) == (before.id, before.label)

    @pytest.mark.parametrize("is_cached", [True, False])
    def test_one_made_with_another_key_is_replaced_in_the_same_row(
        self, site: Site, subscribed: Firefox, push_service: PushService, is_cached: bool
    ) -> None:
        before = row_of(site)
        site.stop()
        site.start(PUSH_VAPID_PRIVATE_KEY=generate_key_pair().private)
        if not is_cached:
            expire_key(subscribed)
        subscribed.open(f"{site.url}/")
        assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}
        after = row_of(site)
        assert (after.id, after.label) == (before.id, before.label)
        assert list(push_service.channels) == [after.endpoint]
        key = push_service.registrations()[-1]["key"]
        assert key.rstrip("=") == site.app.test_client().get(KEY).get_json()["publicKey"]

    def test_the_subscription_of_another_user_is_ended_and_the_wish_stays(
        self, site: Site, subscribed: Firefox, push_service: PushService
    ) -> None:
        sign_in(site, subscribed, "bob")
        assert call(subscribed, "resume", user="bob") is None
        assert subscribed.subscription() is None
        assert push_service.channels == {}
        sign_in(site, subscribed, "alice")
        assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}
        assert row_of(site).user_id == "alice"

    def test_the_wish_of_each_user_is_independent(self, site: Site, subscribed: Firefox) -> None:
        sign_in(site, subscribed, "bob")
        call(subscribed, "subscribe", user="bob")
        sign_in(site, subscribed, "alice")
        assert call(subscribed, "resume", user="alice")["ok"]
        sign_in(site, subscribed, "bob")
        assert call(subscribed, "resume", user="bob")["ok"]
        call(subscribed, "unsubscribe", user="bob")
        assert call(subscribed, "resume", user="bob") is None
        sign_in(site, subscribed, "alice")
        assert call(subscribed, "resume", user="alice")["ok"]
        current = subscribed.subscription()
        assert current is not None
        assert current["endpoint"] in [row.endpoint for row in site.rows() if row.user_id == "alice"]

    def test_unauthenticated_the_browser_is_unsubscribed_and_the_wish_stays(
        self, site: Site, subscribed: Firefox
    ) -> None:
        before = row_of(site)
        sign_out(site, subscribed)
        assert call(subscribed, "resume", user=None) is None
        assert subscribed.subscription() is None
        sign_in(site, subscribed, "alice")
        assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}
        assert row_of(site).id == before.id

    @pytest.mark.parametrize("name", FAILURES)
    def test_a_failure_changes_nothing(self, site: Site, subscribed: Firefox, name: str) -> None:
        status, content, expected = FAILURES[name]
        before = subscribed.subscription()
        with failure(site, status, content):
            assert code(call(subscribed, "resume", user="alice")) == expected
        assert subscribed.subscription() == before
        assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}

    @pytest.mark.parametrize("name", FAILURES)
    def test_a_new_subscription_that_fails_is_undone_and_the_wish_stays(
        self, site: Site, subscribed: Firefox, push_service: PushService, name: str
    ) -> None:
        status, content, expected = FAILURES[name]
        lose_subscription(subscribed)
        with failure(site, status, content):
            assert code(call(subscribed, "resume", user="alice")) == expected
        assert subscribed.subscription() is None
        assert push_service.channels == {}
        assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}

    def test_a_new_key_and_an_outage_are_healed_by_the_next_load(
        self, site: Site, subscribed: Firefox
    ) -> None:
        before = row_of(site)
        site.stop()
        site.start(PUSH_VAPID_PRIVATE_KEY=generate_key_pair().private)
        expire_key(subscribed)
        with failure(site, 503, "", "/push/renew"), failure(site, 503, ""):
            assert code(call(subscribed, "resume", user="alice")) == "unreachable"
        assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}
        assert row_of(site).id == before.id

    def test_a_stopped_server_changes_nothing(self, site: Site, subscribed: Firefox) -> None:
        before = subscribed.subscription()
        site.stop()
        assert code(call(subscribed, "resume", user="alice")) == "unreachable"
        site.start()
        assert subscribed.subscription() == before

    def test_a_redirect_to_a_sign_in_page_changes_nothing(self, site: Site, subscribed: Firefox) -> None:
        before = subscribed.subscription()
        site.pages[SUBSCRIBE] = redirect("/")
        assert code(call(subscribed, "resume", user="alice")) == "unreachable"
        assert subscribed.subscription() == before

    def test_a_422_undoes_the_subscription_and_says_what_is_wrong(
        self, site: Site, subscribed: Firefox
    ) -> None:
        errors = {"json": {"endpoint": ["Must be at a public host."]}}
        with failure(site, 422, {"code": 422, "status": "Unprocessable Entity", "errors": errors}):
            result = call(subscribed, "resume", user="alice")
        assert result["code"] == "refused"
        assert "endpoint" in result["message"]
        assert "Must be at a public host." in result["message"]
        assert subscribed.subscription() is None

    def test_a_second_409_undoes_the_subscription(self, site: Site, subscribed: Firefox) -> None:
        with (
            failure(site, 409, {"code": 409, "status": "Conflict", "message": "Another key."}),
            requests_of(site) as requests,
        ):
            result = call(subscribed, "resume", user="alice")
        assert (result["code"], requests.count(("GET", KEY))) == ("refused", 1)
        assert requests.count(("POST", SUBSCRIBE)) == 2
        assert subscribed.subscription() is None

    def test_a_409_and_then_an_outage_keeps_the_subscription(self, site: Site, subscribed: Firefox) -> None:
        before = subscribed.subscription()
        with failure(site, 409, {"code": 409, "status": "Conflict"}), failure(site, 503, "", KEY):
            assert code(call(subscribed, "resume", user="alice")) == "unreachable"
        assert subscribed.subscription() == before


class TestSubscribe:
    def test_the_browser_has_a_default_label_which_the_user_may_change(
        self, site: Site, subscribed: Firefox
    ) -> None:
        row = row_of(site)
        assert row.label == "Firefox on Linux"
        change = "await fetch(args[0], {method: 'PATCH', headers: {'Content-Type': 'application/json'}, body: args[1]})"
        subscribed.run(change, f"/push/subscriptions/{row.id}", '{"label": "Mine"}')
        call(subscribed, "resume", user="alice")
        call(subscribed, "subscribe", user="alice")
        assert row_of(site).label == "Mine"
        call(subscribed, "resume", user="alice", label="Office")
        assert row_of(site).label == "Office"

    def test_headers_are_sent_with_each_request(self, site: Site, alice: Firefox) -> None:
        received: dict[str, str | None] = {}

        def record(_app: object) -> None:
            received[request.path] = request.headers.get("X-Token")

        with request_started.connected_to(record, site.app):
            call(alice, "subscribe", headers={"X-Token": "t"})
            call(alice, "unsubscribe", headers={"X-Token": "t"})
        assert {received[path] for path in (KEY, SUBSCRIBE, "/push/unsubscribe")} == {"t"}

    def test_a_dismissed_prompt_has_its_own_code(self, alice: Firefox) -> None:
        result = call(alice, "subscribe", prepare="Notification.requestPermission = async () => 'default';")
        assert (result["code"], result["name"]) == ("dismissed", "PushError")

    def test_a_denied_permission_has_its_own_code(self, alice: Firefox) -> None:
        alice.set_preferences({DEFAULT_PERMISSION: 2})
        result = call(alice, "subscribe")
        assert result["code"] == "denied"
        assert "site settings" in result["message"]

    @pytest.mark.parametrize("name", FAILURES)
    def test_a_first_subscription_that_fails_is_undone(self, site: Site, alice: Firefox, name: str) -> None:
        status, content, expected = FAILURES[name]
        with failure(site, status, content):
            assert code(call(alice, "subscribe", user="alice")) == expected
        assert alice.subscription() is None
        assert call(alice, "resume", user="alice") is None

    def test_an_error_of_the_push_service_is_explained(self, alice: Firefox) -> None:
        fail = "PushManager.prototype.subscribe = async () => { throw new DOMException('x', 'AbortError'); };"
        result = call(alice, "subscribe", prepare=fail)
        assert result["code"] == "push-service"
        assert "settings for push messages" in result["message"]

    def test_a_push_service_without_response_is_a_time_out(self, alice: Firefox) -> None:
        hang = "PushManager.prototype.subscribe = () => new Promise(() => {});"
        result = call(alice, "subscribe", prepare=SHORT_TIMERS + hang)
        assert result["code"] == "push-service"
        assert "in time" in result["message"]

    def test_a_subscription_after_the_time_out_is_undone(self, alice: Firefox) -> None:
        late = """
            const { subscribe } = PushManager.prototype;
            PushManager.prototype.subscribe = async function (options) {
                await new Promise((resolve) => start(resolve, 1000));
                return subscribe.call(this, options);
            };
        """
        assert code(call(alice, "subscribe", prepare=SHORT_TIMERS + late)) == "push-service"
        time.sleep(2)
        assert alice.subscription() is None

    @pytest.mark.parametrize("path", [KEY, SUBSCRIBE])
    def test_a_server_without_response_is_a_time_out(self, site: Site, alice: Firefox, path: str) -> None:
        site.pages[path] = Response(slowly(b"{", b"}"), 200)
        result = call(alice, "subscribe", prepare=SHORT_TIMERS)
        assert result["code"] == "unreachable"
        assert "in time" in result["message"]

    @pytest.mark.parametrize(("impossible", "expected"), [(3, None), (4, "push-service")])
    def test_an_endpoint_that_cannot_work_is_replaced_three_times(
        self, site: Site, alice: Firefox, push_service: PushService, impossible: int, expected: str | None
    ) -> None:
        register, count = push_service._register, 0

        def register_impossible(channel: str) -> str:
            nonlocal count
            count += 1
            endpoint = register(channel)
            return f"https://permanently-removed.invalid/{count}" if count <= impossible else endpoint

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(push_service, "_register", register_impossible)
            result = call(alice, "subscribe")
        assert code(result) == expected
        assert count == 4
        assert len(site.rows()) == (1 if expected is None else 0)
        assert (alice.subscription() is None) == (expected is not None)

    def test_a_worker_that_cannot_be_loaded_is_explained(self, site: Site, alice: Firefox) -> None:
        with failure(site, 404, "", "/push/service-worker.js"):
            result = call(alice, "subscribe")
        assert result["code"] == "worker"
        assert "/push/service-worker.js" in result["message"]
        assert site.rows() == []

    def test_the_worker_has_the_scope_of_the_prefix(self, subscribed: Firefox) -> None:
        scopes = subscribed.run(
            "return (await navigator.serviceWorker.getRegistrations()).map(({scope}) => new URL(scope).pathname)"
        )
        assert scopes == ["/push/"]


class TestUnsubscribe:
    def test_the_server_is_told_and_the_wish_is_deleted(self, site: Site, subscribed: Firefox) -> None:
        assert call(subscribed, "unsubscribe") == {"ok": True, "count": 0}
        assert site.rows() == []
        assert call(subscribed, "unsubscribe") is None
        assert call(subscribed, "resume", user="alice") is None

    @pytest.mark.parametrize("failing", ["signed-out", "503", "HTML"])
    def test_a_server_that_cannot_be_told_is_no_error(
        self, site: Site, subscribed: Firefox, failing: str
    ) -> None:
        status, content, _ = FAILURES[failing]
        with failure(site, status, content, "/push/unsubscribe"):
            assert call(subscribed, "unsubscribe") == {"ok": True, "count": None}
        assert subscribed.subscription() is None
        assert call(subscribed, "resume", user="alice") is None

    def test_a_stopped_server_is_no_error(self, site: Site, subscribed: Firefox) -> None:
        site.stop()
        assert call(subscribed, "unsubscribe") == {"ok": True, "count": None}
        site.start()
        assert subscribed.subscription() is None


class TestUnsupportedBrowsers:
    IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    WITHOUT_PUSH = "delete window.PushManager;"

    def test_a_browser_without_push_is_unsupported(self, alice: Firefox) -> None:
        assert code(call(alice, "subscribe", prepare=self.WITHOUT_PUSH)) == "unsupported"
        assert call(alice, "supported") is False
        assert call(alice, "resume") is None
        assert call(alice, "unsubscribe") is None
        assert call(alice, "current") is None

    @pytest.mark.parametrize(
        "case",
        [
            ("Safari/604.1", False, "standalone", "home-screen", "Add to Home Screen", "manifest"),
            ("Safari/604.1", False, "browser", "home-screen", "manifest", "in Safari"),
            ("Safari/604.1", False, None, "home-screen", "manifest", "in Safari"),
            ("[FBAN/FBIOS]", False, "fullscreen", "home-screen", "open this page in Safari", "manifest"),
            ("", True, "standalone", "unsupported", "iOS 16.4", "Add to Home Screen"),
            ("", True, None, "unsupported", "manifest", "Add to Home Screen"),
        ],
    )
    def test_an_iphone_gets_the_advice_that_helps(
        self, site: Site, alice: Firefox, case: tuple[str, bool, str | None, str, str, str]
    ) -> None:
        application, standalone, manifest, expected, included, excluded = case
        alice.set_preferences({"general.useragent.override": f"{self.IPHONE} {application}"})
        if manifest is not None:
            site.pages["/manifest.json"] = {"display": manifest}
            site.pages["/"] = EMPTY_PAGE + "<link rel=manifest href=/manifest.json>"
        alice.open(f"{site.url}/")
        prepare = f"{self.WITHOUT_PUSH} navigator.standalone = {str(standalone).lower()};"
        result = call(alice, "subscribe", prepare=prepare)
        assert result["code"] == expected
        assert included in result["message"]
        assert excluded not in result["message"]


def lose_subscription(firefox: Firefox) -> None:
    """Unsubscribe without client.js, as a browser does by itself."""
    firefox.run_with_registration("await (await registration.pushManager.getSubscription()).unsubscribe()")


def expire_key(firefox: Firefox) -> None:
    """Let the cached server key be out of date."""
    firefox.run(
        """
        const database = await new Promise((resolve) => {
            const opening = indexedDB.open("pushapp /push/");
            opening.onsuccess = () => resolve(opening.result);
        });
        const transaction = database.transaction("values", "readwrite");
        transaction.objectStore("values").delete("key");
        await new Promise((resolve) => { transaction.oncomplete = resolve; });
        database.close();
        """
    )
