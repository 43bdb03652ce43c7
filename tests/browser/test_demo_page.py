"""The demo's page: what its user reads and clicks."""

import json

import pytest

from tests.browser.demo_page import Demo, DemoPage
from tests.browser.firefox import Firefox
from tests.support.subscriptions import subscription

pytestmark = pytest.mark.slow


def test_removing_this_device_turns_the_switch_off(
    firefox: Firefox, demo: Demo, subscribed_page: DemoPage
) -> None:
    (listed,) = firefox.run(
        "return [...document.querySelectorAll('#devices small')].map((each) => each.textContent)"
    )
    assert listed.startswith("this device, since ")
    firefox.run("document.querySelector('#devices [id^=remove]').click()")
    firefox.wait_until("!document.querySelector('#devices li')")
    firefox.wait_until("document.getElementById('switch').getAttribute('aria-checked') === 'false'")
    assert demo.rows() == []
    subscribed_page.open()
    assert subscribed_page.devices() == []


def test_removing_another_device_leaves_this_one(
    firefox: Firefox, demo: Demo, subscribed_page: DemoPage
) -> None:
    headers = "{'Content-Type': 'application/json'}"
    post = (
        f"return (await fetch('/push/subscribe', {{method: 'POST', body: args[0], headers: {headers}}})).ok"
    )
    assert firefox.run(post, json.dumps(subscription()))
    subscribed_page.open()
    assert len(subscribed_page.devices()) == 2
    other = "[...document.querySelectorAll('#devices li')].find((item) => !item.textContent.includes('this device'))"
    firefox.run(f"{other}.querySelector('[id^=remove]').click()")
    firefox.wait_until("document.querySelectorAll('#devices li').length === 1")
    assert len(demo.rows()) == 1
    assert firefox.run("return document.getElementById('switch').getAttribute('aria-checked')") == "true"


def test_the_switch_stays_usable_when_the_server_stops(
    firefox: Firefox, demo: Demo, subscribed_page: DemoPage
) -> None:
    demo.stop()
    subscribed_page.click("switch")
    assert "could not be reached" in subscribed_page.wait_for_message()
    firefox.wait_until("!document.getElementById('switch').disabled")
    demo.start()


def test_a_name_of_spaces_is_rejected_and_the_field_has_the_focus(firefox: Firefox, demo: Demo) -> None:
    DemoPage(firefox, demo)
    assert firefox.run("return document.activeElement.id") == "name"
    firefox.run(
        "document.getElementById('name').value = '  '; document.getElementById('sign-in').requestSubmit()"
    )
    firefox.wait_until("document.getElementById('sign-in-error').textContent.includes('1 to 255')")


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


def test_a_device_shows_its_label_and_when_it_was_last_sent_to(
    firefox: Firefox, demo: Demo, subscribed_page: DemoPage
) -> None:
    assert subscribed_page.devices() == ["Firefox on Linux"]
    details = "document.querySelector('#devices small').textContent"
    assert "nothing sent yet" in firefox.run(f"return {details}")
    firefox.run("document.querySelector('#devices [id^=test]').click()")
    (notification,) = firefox.notifications()
    assert notification["title"] == "Test notification"
    firefox.wait_until(f"{details}.includes('last sent')")


def test_a_user_who_signs_in_again_has_notifications_again(
    firefox: Firefox, demo: Demo, subscribed_page: DemoPage
) -> None:
    subscribed_page.sign_out()
    assert demo.rows() == []
    subscribed_page.sign_in("bob")
    assert firefox.subscription() is None
    subscribed_page.sign_out()
    subscribed_page.sign_in("alice")
    firefox.wait_until("document.getElementById('switch').getAttribute('aria-checked') === 'true'")
    assert [row.user_id for row in demo.rows()] == ["alice"]
