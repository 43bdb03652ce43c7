"""Notifications of the service worker, from the server to the user's click."""

import pytest

import pushapp
from pushapp import Message
from pushapp.webpush.vapid import generate_key_pair
from tests.browser.demo_page import Demo, DemoPage
from tests.browser.firefox import Firefox
from tests.browser.mozilla import DECRYPTED, PushService
from tests.browser.site import EMPTY_PAGE, Site
from tests.browser.whole_message import MESSAGE, SILENT, check_whole

pytestmark = pytest.mark.slow


def test_the_next_user_of_a_browser_never_sees_a_message_to_the_first(
    firefox: Firefox, demo: Demo, subscribed_page: DemoPage
) -> None:
    page = subscribed_page
    page.sign_out()
    page.sign_in("bob")
    page.switch(on=True)
    assert "0 sent, 0 gone, 0 failed" in demo.send("alice", "--title", "for alice")
    assert "1 sent" in demo.send("bob", "--title", "for bob")
    assert [notification["title"] for notification in firefox.notifications()] == ["for bob"]


def test_a_message_arrives_after_a_change_of_the_key(
    firefox: Firefox, demo: Demo, subscribed_page: DemoPage
) -> None:
    demo.stop()
    demo.start(PUSH_VAPID_PRIVATE_KEY=generate_key_pair().private)
    subscribed_page.open()
    assert "1 sent" in demo.send("alice", "--title", "new key")
    assert [notification["title"] for notification in firefox.notifications()] == ["new key"]


def test_a_closed_browser_shows_its_message_after_the_start(
    firefox: Firefox, demo: Demo, subscribed_page: DemoPage
) -> None:
    firefox.close()
    assert "1 sent" in demo.send("alice", "--title", "meanwhile")
    firefox.start()
    subscribed_page.open()
    assert [notification["title"] for notification in firefox.notifications()] == ["meanwhile"]


@pytest.mark.usefixtures("subscribed_page")
def test_a_push_without_content_shows_a_notification(firefox: Firefox, push_service: PushService) -> None:
    current = firefox.subscription()
    assert current is not None
    assert push_service.deliver(current["endpoint"]) == DECRYPTED
    (notification,) = firefox.notifications()
    assert notification["title"] == "127.0.0.1"


def test_every_member_is_shown_that_the_browser_keeps(firefox: Firefox, site: Site) -> None:
    site.subscribe(firefox, "alice")
    site.app.config["PUSH_SITE_URL"] = site.url
    with site.app.app_context():
        pushapp.send(MESSAGE, to="alice")
        (shown,) = firefox.notifications()
        assert check_whole(shown, site.url) >= {
            "title",
            "body",
            "icon",
            "tag",
            "lang",
            "dir",
            "requireInteraction",
        }
        pushapp.send(SILENT, to="alice")
    silent = next(each for each in firefox.notifications(2) if each["title"] == "silent")
    assert silent["silent"] is True


@pytest.fixture
def site_with_targets(firefox: Firefox, site: Site) -> Site:
    """A site with two targets for clicks, and alice subscribed."""
    site.pages["/inbox"] = site.pages["/settings"] = EMPTY_PAGE
    site.subscribe(firefox, "alice")
    return site


def test_a_click_opens_the_target(firefox: Firefox, site_with_targets: Site) -> None:
    site = site_with_targets
    assert "1 sent" in site.send("alice", "--title", "click me", "--navigate", "/inbox")
    firefox.click_notification("click me")
    firefox.wait_for_tab(f"{site.url}/inbox")
    assert firefox.notifications(0) == []


def test_a_click_on_an_action_opens_the_target_of_the_action(
    firefox: Firefox, site_with_targets: Site
) -> None:
    site = site_with_targets
    action = {"action": "mute", "title": "Mute", "navigate": "/settings"}
    with site.app.app_context():
        pushapp.send(Message(title="click me", navigate="/inbox", actions=[action]), to="alice")
    firefox.click_notification("click me", "mute")
    firefox.wait_for_tab(f"{site.url}/settings")
    assert f"{site.url}/inbox" not in firefox.tabs()
    assert firefox.notifications(0) == []
