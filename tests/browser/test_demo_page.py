"""The demo's page: what its user reads and clicks."""

import pytest

from tests.browser.demo_page import Demo, DemoPage
from tests.browser.firefox import Firefox

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("firefox")]


def test_the_device_list_deletes_a_device(firefox: Firefox, demo: Demo, subscribed_page: DemoPage) -> None:
    firefox.run("document.querySelector('#devices button').click()")
    firefox.wait_until("!document.querySelector('#devices li')")
    assert demo.rows() == []
    subscribed_page.open()  # the browser still has the subscription, and posts it again
    assert len(subscribed_page.devices()) == len(demo.rows()) == 1


def test_the_send_button_sends_a_message_to_its_user(firefox: Firefox, subscribed_page: DemoPage) -> None:
    subscribed_page.click("send")
    (notification,) = firefox.notifications()
    assert notification["title"] == "Hello alice"
    firefox.wait_until("document.getElementById('message').textContent === 'Sent to 1 of 1 devices.'")


def test_a_denied_permission_is_explained(firefox: Firefox, demo: Demo) -> None:
    firefox.set_preferences({"permissions.default.desktop-notification": 2})
    page = DemoPage(firefox, demo)
    page.sign_in("alice")
    page.click("switch")
    assert "blocked for this site" in page.wait_for_message()
    assert demo.rows() == []


def test_an_insecure_page_asks_for_https(firefox: Firefox, demo: Demo) -> None:
    # Firefox trusts 127.0.0.1 and localhost, and no other name over plain HTTP.
    demo.app.config["TRUSTED_HOSTS"] = None
    firefox.set_preferences({"network.dns.localDomains": "site.example"})
    firefox.open(demo.url.replace("127.0.0.1", "site.example") + "/")
    message = firefox.wait_until("document.getElementById('message').textContent")
    assert "open this site over https" in message
