"""Receipts of the service worker: shown, clicked, closed."""

from typing import Any

import pytest
from flask import request, request_started
from sqlalchemy import text

from pushapp import Message, send
from pushapp.database import engine
from pushapp.sending.status import status
from tests.browser.client import call
from tests.browser.firefox import Firefox
from tests.browser.site import EMPTY_PAGE, Site
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

RECEIPTS = "/push/receipts"
MUTE = {"action": "mute", "title": "Mute", "navigate": "/settings"}


@pytest.fixture
def firefox_of_alice(site: Site, firefox: Firefox) -> Firefox:
    """The browser of alice, subscribed at a site that asks for receipts."""
    site.stop()
    site.start(PUSH_RECEIPTS=True)
    site.pages["/inbox"] = site.pages["/settings"] = EMPTY_PAGE
    site.sign_in(firefox, "alice")
    firefox.open(f"{site.url}/")
    assert call(firefox, "subscribe", user="alice") == {"ok": True, "count": 1}
    return firefox


def send_to_alice(site: Site, title: str, **fields: Any) -> int:
    with site.app.app_context():
        return send(Message(title=title, **fields), to="alice")


def counts(site: Site, message_id: int) -> tuple[int, int]:
    with site.app.app_context():
        found = status(message_id)
    return found.shown, found.clicked


def events(site: Site) -> list[str]:
    with site.app.app_context(), engine().connect() as connection:
        return list(connection.execute(text("SELECT event FROM push_receipts ORDER BY event")).scalars())


def test_a_notification_that_is_shown_and_clicked_is_counted(site: Site, firefox_of_alice: Firefox) -> None:
    message_id = send_to_alice(site, "Hello", navigate="/inbox")
    wait_until(lambda: counts(site, message_id) == (1, 0))
    firefox_of_alice.click_notification("Hello")
    firefox_of_alice.wait_for_tab(f"{site.url}/inbox")
    wait_until(lambda: counts(site, message_id) == (1, 1))


def test_a_click_on_an_action_names_it(site: Site, firefox_of_alice: Firefox) -> None:
    actions: dict[str, Any] = {}  # by event: that it is closed may arrive first

    def record(_app: object) -> None:
        if request.path == RECEIPTS:
            receipt = request.get_json(cache=True)
            actions[receipt["event"]] = receipt.get("action")

    message_id = send_to_alice(site, "Hello", navigate="/inbox", actions=[MUTE])
    wait_until(lambda: counts(site, message_id) == (1, 0))
    with request_started.connected_to(record, site.app):
        firefox_of_alice.click_notification("Hello", "mute")
        firefox_of_alice.wait_for_tab(f"{site.url}/settings")
        wait_until(lambda: "clicked" in actions)
    assert actions["clicked"] == "mute"


def test_a_dismissed_notification_is_closed_and_not_clicked(site: Site, firefox_of_alice: Firefox) -> None:
    message_id = send_to_alice(site, "Hello")
    wait_until(lambda: counts(site, message_id) == (1, 0))
    firefox_of_alice.dismiss_notification("Hello")
    wait_until(lambda: events(site) == ["closed", "shown"])
    assert counts(site, message_id) == (1, 0)


@pytest.mark.parametrize("response", [("", 503), ("<h1>Sign in</h1>", 200)], ids=["503", "HTML"])
def test_a_receipt_that_fails_changes_nothing(site: Site, firefox_of_alice: Firefox, response: Any) -> None:
    site.pages[RECEIPTS] = response
    send_to_alice(site, "Hello", navigate="/inbox")
    firefox_of_alice.click_notification("Hello")
    firefox_of_alice.wait_for_tab(f"{site.url}/inbox")
    assert events(site) == []


def test_without_receipts_the_worker_reports_nothing(site: Site, firefox_of_alice: Firefox) -> None:
    site.stop()
    site.start()
    paths: list[str] = []

    def record(_app: object) -> None:
        paths.append(request.path)

    with request_started.connected_to(record, site.app):
        send_to_alice(site, "Hello", navigate="/inbox")
        firefox_of_alice.click_notification("Hello")
        firefox_of_alice.wait_for_tab(f"{site.url}/inbox")
    assert RECEIPTS not in paths
