"""A new VAPID key: messages are shown before and after the browser moves to it."""

import pytest

from pushapp.webpush.vapid import generate_key_pair
from tests.browser.client import call
from tests.browser.firefox import Firefox
from tests.browser.mozilla import PushService
from tests.browser.site import Site
from tests.conftest import SETTINGS

pytestmark = pytest.mark.slow

OLD_KEY = SETTINGS["PUSH_VAPID_PRIVATE_KEY"]
NEW = generate_key_pair()


@pytest.fixture
def subscribed(site: Site, firefox: Firefox) -> Firefox:
    """The browser of alice, subscribed with the old key; no page of the site is open."""
    site.sign_in(firefox, "alice")
    firefox.open(f"{site.url}/")
    assert call(firefox, "subscribe", user="alice") == {"ok": True, "count": 1}
    firefox.open("about:blank")
    site.stop()
    return firefox


def send(site: Site, firefox: Firefox, title: str) -> None:
    """Send a message, and wait until it is shown."""
    assert "1 sent" in site.send("alice", "--title", title)
    firefox.wait_for_alert(title)


def test_a_rotation_loses_no_message_and_a_page_load_moves_the_browser(
    site: Site, subscribed: Firefox, push_service: PushService
) -> None:
    site.start(PUSH_VAPID_PRIVATE_KEY=NEW.private, PUSH_VAPID_PRIVATE_KEY_FALLBACKS=[OLD_KEY])
    (before,) = site.rows()
    send(site, subscribed, "Before the page is loaded")
    subscribed.open(f"{site.url}/")
    assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}
    (after,) = site.rows()
    assert (after.id, after.vapid_key) == (before.id, NEW.public)
    assert before.vapid_key not in (None, NEW.public)
    assert list(push_service.channels) == [after.endpoint]
    send(site, subscribed, "After it was moved")
    assert push_service.responses == [201, 201]


def test_messages_to_a_key_that_is_missing_are_not_sent(
    site: Site, subscribed: Firefox, push_service: PushService
) -> None:
    site.start(PUSH_VAPID_PRIVATE_KEY=NEW.private)
    assert "0 sent, 0 gone, 1 failed" in site.send("alice", "--title", "Lost")
    assert push_service.responses == []
    subscribed.open(f"{site.url}/")
    assert call(subscribed, "resume", user="alice") == {"ok": True, "count": 1}
    send(site, subscribed, "Healed")
