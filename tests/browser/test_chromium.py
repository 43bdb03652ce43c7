"""A real Chromium subscribes, and shows a message."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pushapp import Message
from pushapp.webpush.encryption import encrypt
from tests.browser.chromium import PROGRAM, Chromium
from tests.browser.demo_page import Demo, DemoPage
from tests.browser.google import PushService
from tests.browser.whole_message import MESSAGE, SILENT, check_whole
from tests.support.deployment import certificate

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")]


@pytest.fixture
def google(tmp_path: Path) -> Iterator[PushService]:
    certificate(tmp_path)
    with closing(PushService(tmp_path / "example.com.pem", tmp_path / "example.com.key")) as push_service:
        yield push_service


@pytest.fixture
def chromium(google: PushService) -> Iterator[Chromium]:
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        closing(Chromium(Path(profile), google)) as chromium,
    ):
        yield chromium


def test_chromium_subscribes_and_shows_a_message(chromium: Chromium, google: PushService, demo: Demo) -> None:
    chromium.allow_notifications(demo.url)
    page = DemoPage(chromium, demo)
    page.sign_in("alice")
    page.switch(on=True)
    (row,) = demo.rows()
    current = chromium.subscription()
    assert current is not None
    assert (row.user_id, row.endpoint) == ("alice", current["endpoint"])
    assert (row.keys_p256dh, row.keys_auth) == (current["keys"]["p256dh"], current["keys"]["auth"])

    # The endpoint's host is fixed in Chromium, so the message is encrypted as for sending, and passed on here.
    message = Message(title="Grüße 🎉", body="日本語", navigate="/?inbox")
    google.deliver(row.endpoint, encrypt(message.payload(), row.keys_p256dh, row.keys_auth))
    (notification,) = chromium.notifications()
    assert (notification["title"], notification["body"]) == ("Grüße 🎉", "日本語")
    assert notification["data"]["navigate"] == "/?inbox"

    page.switch(on=False)
    assert demo.rows() == []
    assert chromium.subscription() is None


def test_chromium_can_install_the_demo(chromium: Chromium, demo: Demo) -> None:
    DemoPage(chromium, demo)
    assert chromium.installability_errors() == []


def test_chromium_shows_every_member_that_it_keeps(
    chromium: Chromium, google: PushService, demo: Demo
) -> None:
    chromium.allow_notifications(demo.url)
    page = DemoPage(chromium, demo)
    page.sign_in("alice")
    page.switch(on=True)
    (row,) = demo.rows()
    for message in (MESSAGE, SILENT):
        payload = message.with_absolute_urls(demo.url).payload()
        google.deliver(row.endpoint, encrypt(payload, row.keys_p256dh, row.keys_auth))
    whole, silent = sorted(chromium.notifications(2), key=lambda each: each["title"] == "silent")
    assert silent["silent"] is True
    stored = {
        "title",
        "body",
        "icon",
        "image",
        "badge",
        "tag",
        "lang",
        "dir",
        "renotify",
        "requireInteraction",
    }
    assert check_whole(whole, demo.url) == stored | {"timestamp", "vibrate", "silent"}
