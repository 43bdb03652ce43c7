"""The essential guarantees in a real Firefox, in the default test run."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from flask import Flask, Response, request, request_finished

from tests.browser.demo_page import Demo, DemoPage
from tests.browser.firefox import Firefox
from tests.browser.mozilla import DECRYPTED, PushService
from tests.support.subscriptions import subscription

ATTACK = (Path(__file__).parent / "attack.js").read_text()


def test_a_browser_subscribes_and_unsubscribes(
    firefox: Firefox, demo: Demo, page: DemoPage, push_service: PushService
) -> None:
    assert page.devices() == []
    page.switch(on=True)
    (row,) = demo.rows()
    current = firefox.subscription()
    assert current is not None
    assert (row.user_id, row.endpoint) == ("alice", current["endpoint"])
    assert (row.keys_p256dh, row.keys_auth) == (current["keys"]["p256dh"], current["keys"]["auth"])
    assert page.devices() == ["Firefox on Linux"]

    for _ in range(2):  # every load posts the subscription again, and nothing changes
        page.open()
    assert demo.rows() == [row]

    page.switch(on=False)
    assert demo.rows() == []
    assert firefox.subscription() is None
    assert push_service.channels == {}
    assert page.devices() == []


@pytest.mark.usefixtures("subscribed_page")
def test_a_message_makes_the_round_trip_from_the_command_to_a_notification(
    firefox: Firefox, demo: Demo, push_service: PushService
) -> None:
    output = demo.send(
        "alice", "--title", "Grüße 🎉", "--body", "日本語", "--navigate", "/?inbox", "--tag", "t"
    )
    assert "1 sent" in output
    (notification,) = firefox.notifications()
    assert (notification["title"], notification["body"], notification["tag"]) == ("Grüße 🎉", "日本語", "t")
    assert notification["data"]["navigate"] == "/?inbox"
    assert push_service.responses == [201]
    assert push_service.codes() == [DECRYPTED]

    firefox.run_with_registration("await (await registration.pushManager.getSubscription()).unsubscribe()")
    assert len(demo.rows()) == 1  # the server was not told
    assert "1 gone" in demo.send("alice", "--title", "x")
    assert demo.rows() == []


class _EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = b"<!doctype html><title>Attacker</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def attacker() -> Iterator[int]:
    """The port of a site that is not the demo."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _EmptyPage) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])  # same-site on another port, and cross-site
def test_a_page_of_another_origin_is_rejected(firefox: Firefox, demo: Demo, attacker: int, host: str) -> None:
    responses: list[tuple[str, str | None, int]] = []

    def record(_app: Flask, response: Response) -> None:
        if request.method != "OPTIONS":  # preflight requests change nothing
            responses.append((request.path, request.mimetype, response.status_code))

    request_finished.connect(record, demo.app)
    firefox.open(f"http://{host}:{attacker}/")
    readable = firefox.run(ATTACK, demo.url, json.dumps(subscription()))
    assert readable == []
    requests = {(path, mimetype) for path, mimetype, _ in responses}
    assert ("/push/subscribe", "text/plain") in requests
    assert ("/push/subscribe", "application/x-www-form-urlencoded") in requests
    changing = ("/push/subscribe", "/push/unsubscribe")
    assert {status for path, _, status in responses if path in changing} == {403}
    assert demo.rows() == []
