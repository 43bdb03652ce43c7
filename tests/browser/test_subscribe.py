"""client.js with a real server: the browser's subscription and the stored one stay the same."""

import pytest

from pushapp.webpush.vapid import generate_key_pair
from tests.browser.demo_page import Demo, DemoPage
from tests.browser.driver import JavaScriptError
from tests.browser.firefox import Firefox
from tests.browser.mozilla import PushService
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("page")
def test_subscribe_resolves_to_the_response_of_the_server(firefox: Firefox) -> None:
    assert firefox.call_client("subscribe") == {"ok": True, "count": 1}
    assert firefox.call_client("unsubscribe") == {"ok": True, "count": 0}
    assert firefox.call_client("unsubscribe") is None
    assert firefox.call_client("supported") is True


def test_a_subscription_moves_to_the_next_user_who_subscribes(
    firefox: Firefox, demo: Demo, subscribed_page: DemoPage
) -> None:
    page = subscribed_page
    before = firefox.subscription()
    firefox.run(  # the next user signs in while the browser still has alice's subscription
        """await fetch("/demo/sign-in", {
            method: "POST", headers: { "Content-Type": "application/json" }, body: '{"name": "bob"}',
        })"""
    )
    assert firefox.call_client("subscribe") == {"ok": True, "count": 1}
    assert firefox.subscription() == before
    assert [row.user_id for row in demo.rows()] == ["bob"]

    page.open()
    page.sign_out()
    assert demo.rows() == []
    assert firefox.subscription() is None
    page.sign_in("alice")
    wait_until(lambda: page.devices() == [])


def test_a_subscription_with_another_key_is_replaced(
    demo: Demo, subscribed_page: DemoPage, push_service: PushService
) -> None:
    (before,) = demo.rows()
    demo.stop()
    demo.start(PUSH_VAPID_PRIVATE_KEY=generate_key_pair().private)
    subscribed_page.open()
    (after,) = demo.rows()
    assert after.endpoint != before.endpoint
    assert list(push_service.channels) == [after.endpoint]
    key = push_service.registrations()[-1]["key"]
    assert key.rstrip("=") == demo.app.test_client().get("/push/vapid-public-key").get_json()["publicKey"]


def test_a_rejected_subscription_is_removed_from_the_browser(
    firefox: Firefox, demo: Demo, push_service: PushService
) -> None:
    page = DemoPage(firefox, demo)
    with pytest.raises(JavaScriptError) as unauthenticated:
        firefox.call_client("subscribe")
    assert unauthenticated.value.message == "Sign in first, then turn notifications on."
    assert firefox.subscription() is None
    demo.stop()
    demo.start(PUSH_TRUSTED_PUSH_SERVICES=[])
    page.open()
    page.sign_in("alice")
    with pytest.raises(JavaScriptError) as rejected:
        firefox.call_client("subscribe")
    assert "endpoint" in rejected.value.message
    assert firefox.subscription() is None
    assert push_service.channels == {}


@pytest.mark.usefixtures("subscribed_page")
def test_a_subscription_survives_an_outage_of_the_server(firefox: Firefox, demo: Demo) -> None:
    before = firefox.subscription()
    demo.stop()
    with pytest.raises(JavaScriptError) as outage:
        firefox.call_client("subscribe")
    demo.start()
    assert outage.value.message.startswith("The server is unavailable")
    assert firefox.subscription() == before


@pytest.mark.usefixtures("subscribed_page")
def test_the_browser_resubscribes_after_the_push_service_lost_its_data(
    firefox: Firefox, demo: Demo, push_service: PushService
) -> None:
    (before,) = demo.rows()
    push_service.reset_user_agent()

    def is_resubscribed() -> bool:
        rows = demo.rows()
        return bool(rows) and [row.endpoint for row in rows] == list(push_service.channels)

    wait_until(is_resubscribed)
    (after,) = demo.rows()
    assert after.endpoint != before.endpoint
    current = firefox.subscription()
    assert current is not None
    assert (after.endpoint, after.keys_auth) == (current["endpoint"], current["keys"]["auth"])
