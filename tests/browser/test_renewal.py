"""Renewals by the service worker, when the push service has lost the subscription."""

from typing import Any

import pytest

from pushapp.webpush.vapid import generate_key_pair
from tests.browser.client import call
from tests.browser.firefox import Firefox
from tests.browser.mozilla import PushService
from tests.browser.site import Site
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

RENEW = "/push/renew"


@pytest.fixture
def subscribed(site: Site, firefox: Firefox) -> Firefox:
    site.sign_in(firefox, "alice")
    firefox.open(f"{site.url}/")
    assert call(firefox, "subscribe", user="alice") == {"ok": True, "count": 1}
    return firefox


def sign_out(site: Site, firefox: Firefox) -> None:
    firefox.set_cookie(site.app.config["SESSION_COOKIE_NAME"], "x")


def wait_for_renewal(site: Site, push_service: PushService, seconds: float = 40) -> Any:
    """Wait until the stored subscription is the one that the push service has, and return its row."""

    def is_renewed() -> bool:
        channels = list(push_service.channels)
        return bool(channels) and [row.endpoint for row in site.rows()] == channels

    wait_until(is_renewed, seconds)
    (row,) = site.rows()
    return row


def test_a_renewal_needs_no_session_and_the_row_stays(
    site: Site, subscribed: Firefox, push_service: PushService
) -> None:
    (before,) = site.rows()
    sign_out(site, subscribed)
    push_service.reset_user_agent()
    after = wait_for_renewal(site, push_service)
    assert after.endpoint != before.endpoint
    assert (after.id, after.user_id, after.label) == (before.id, "alice", before.label)
    current = subscribed.subscription()
    assert current is not None
    assert (after.endpoint, after.keys_auth) == (current["endpoint"], current["keys"]["auth"])


def test_a_second_renewal_and_a_load_after_it(
    site: Site, subscribed: Firefox, push_service: PushService
) -> None:
    (before,) = site.rows()
    for _ in range(2):
        push_service.reset_user_agent()
        after = wait_for_renewal(site, push_service)
    assert after.id == before.id
    assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}
    assert site.rows() == [after]


def test_a_renewal_uses_the_newest_key_of_the_server(
    site: Site, subscribed: Firefox, push_service: PushService
) -> None:
    site.stop()
    site.start(PUSH_VAPID_PRIVATE_KEY=generate_key_pair().private)
    push_service.reset_user_agent()
    wait_for_renewal(site, push_service)
    key = push_service.registrations()[-1]["key"]
    assert key.rstrip("=") == site.app.test_client().get("/push/vapid-public-key").get_json()["publicKey"]


@pytest.mark.parametrize(
    "response",
    [("", 503), ("<h1>Sign in</h1>", 200), ("<h1>Forbidden</h1>", 403), ({"code": 503}, 503)],
    ids=["503", "a sign-in page", "403 of a proxy", "503 of pushapp"],
)
def test_a_renewal_is_retried_while_the_server_is_unavailable(
    site: Site, subscribed: Firefox, push_service: PushService, response: Any
) -> None:
    (before,) = site.rows()
    site.pages[RENEW] = response
    push_service.reset_user_agent()
    wait_until(lambda: push_service.channels)
    (endpoint,) = push_service.channels
    del site.pages[RENEW]
    assert wait_for_renewal(site, push_service).id == before.id
    assert list(push_service.channels) == [endpoint]


def test_a_renewal_is_retried_for_at_least_30_seconds(
    site: Site, subscribed: Firefox, push_service: PushService
) -> None:
    import time

    (before,) = site.rows()
    site.stop()
    push_service.reset_user_agent()
    time.sleep(32)
    site.start()
    assert wait_for_renewal(site, push_service, 25).id == before.id


def test_a_rejected_renewal_unsubscribes_nothing_and_the_next_load_heals_it(
    site: Site, subscribed: Firefox, push_service: PushService
) -> None:
    (before,) = site.rows()
    site.pages[RENEW] = ({"code": 404, "status": "Not Found"}, 404)
    push_service.reset_user_agent()
    wait_until(lambda: push_service.channels)
    del site.pages[RENEW]
    assert subscribed.subscription() is not None
    assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}
    (after,) = site.rows()
    assert after.id == before.id
    assert list(push_service.channels) == [after.endpoint]


def test_an_ended_subscription_is_not_renewed(
    site: Site, subscribed: Firefox, push_service: PushService
) -> None:
    assert call(subscribed, "unsubscribe") == {"ok": True, "count": 0}
    push_service.reset_user_agent()
    assert site.rows() == []
    assert subscribed.subscription() is None
