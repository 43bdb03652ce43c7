"""The browser's side, in a real Firefox that talks to the demo and to a push service of the tests' own."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, request, request_finished
from sqlalchemy import text
from werkzeug.serving import make_server

from pushapp import create_app
from pushapp.extensions import db
from pushapp.webpush.vapid import generate_key_pair
from tests.browser.firefox import PROGRAM, Firefox
from tests.browser.mozilla import PushService
from tests.conftest import SETTINGS, migrate
from tests.support.subscriptions import subscription

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Firefox is not on this machine")

CURRENT = """
    const { current } = await import("/push/client.js");
    return (await current())?.toJSON() ?? null;
"""
NOTIFICATIONS = """
    const registration = await navigator.serviceWorker.ready;
    return (await registration.getNotifications()).map(({ title, body, tag, data }) => ({ title, body, tag, data }));
"""


@pytest.fixture
def push_service() -> Iterator[PushService]:
    push_service = PushService()
    yield push_service
    push_service.close()


@pytest.fixture
def firefox(push_service: PushService) -> Iterator[Firefox]:
    firefox = Firefox(push_service.websocket)
    yield firefox
    firefox.forget()


class Demo:
    """The demo, served on a port of this machine."""

    def __init__(self, folder: Path, **settings: Any):
        url = f"sqlite:///{folder}/pushapp.db"
        migrate(url, folder)
        self.settings = SETTINGS | {"PUSH_DEMO": True, "SQLALCHEMY_DATABASE_URI": url} | settings
        self.folder = folder
        self.port = 0
        self.start()

    def start(self, **settings: Any) -> None:
        self.app: Flask = create_app(self.settings | settings, instance_path=str(self.folder))
        self._server = make_server("127.0.0.1", self.port, self.app, threaded=True)
        self.port = self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        with self.app.app_context():
            db.engine.dispose()

    def rows(self) -> list[Any]:
        with self.app.app_context(), db.engine.connect() as connection:
            return list(connection.execute(text("SELECT * FROM push_subscriptions ORDER BY id")))


@pytest.fixture
def demo(tmp_path: Path, push_service: PushService) -> Iterator[Demo]:
    demo = Demo(tmp_path, PUSH_TRUSTED_PUSH_SERVICES=[push_service.origin])
    yield demo
    demo.stop()


class Page:
    """The demo's page, as its user sees it."""

    def __init__(self, firefox: Firefox, demo: Demo):
        self.firefox, self.demo = firefox, demo
        self.open()

    def open(self) -> None:
        self.firefox.open(f"http://127.0.0.1:{self.demo.port}/")
        self.firefox.wait_until("document.body.dataset.ready")

    def sign_in(self, name: str) -> None:
        self.firefox.run(
            """
            document.getElementById("name").value = args[0];
            document.getElementById("sign-in").requestSubmit();
            """,
            name,
        )
        self.firefox.wait_until("!document.getElementById('signed-in').hidden")
        self.firefox.wait_until(f"document.getElementById('user').textContent === {name!r}")

    def sign_out(self) -> None:
        self.click("sign-out")
        self.firefox.wait_until("!document.getElementById('sign-in').hidden")

    def click(self, id: str) -> None:
        self.firefox.run("document.getElementById(args[0]).click()", id)

    def switch(self, on: bool) -> None:
        self.click("switch")
        state = "true" if on else "false"
        self.firefox.wait_until(
            f"document.getElementById('switch').getAttribute('aria-checked') === '{state}'"
            " && !document.getElementById('switch').disabled"
        )

    def devices(self) -> list[str]:
        return self.firefox.run(
            "return [...document.querySelectorAll('#devices li span')].map((one) => one.firstChild.data)"
        )

    @property
    def message(self) -> str:
        return self.firefox.run("return document.getElementById('message').textContent")

    def current(self) -> dict[str, Any] | None:
        return self.firefox.run(CURRENT)


def test_a_browser_subscribes_and_unsubscribes(
    firefox: Firefox, demo: Demo, push_service: PushService
) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    assert page.devices() == []
    page.switch(on=True)
    (row,) = demo.rows()
    held = page.current()
    assert held is not None
    assert (row.user_id, row.endpoint) == ("alice", held["endpoint"])
    assert (row.keys_p256dh, row.keys_auth) == (held["keys"]["p256dh"], held["keys"]["auth"])
    assert page.devices() == [push_service.origin.removeprefix("http://")]

    for _ in range(2):  # every load posts the subscription again, and nothing changes
        page.open()
    assert demo.rows() == [row]

    page.switch(on=False)
    assert demo.rows() == []
    assert page.current() is None
    assert push_service.channels == {}
    assert page.devices() == []


def test_subscribing_answers_what_the_server_said(firefox: Firefox, demo: Demo) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    answer = firefox.run('return (await import("/push/client.js")).subscribe()')
    assert answer == {"ok": True, "count": 1}
    assert firefox.run('return (await import("/push/client.js")).unsubscribe()') == {"ok": True, "count": 0}
    assert firefox.run('return (await import("/push/client.js")).unsubscribe()') is None
    assert firefox.run('return (await import("/push/client.js")).supported()') is True


def test_the_list_forgets_a_device(firefox: Firefox, demo: Demo) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    page.switch(on=True)
    firefox.run("document.querySelector('#devices button').click()")
    firefox.wait_until("!document.querySelector('#devices li')")
    assert demo.rows() == []
    page.open()  # the browser still has it, and brings it back
    assert len(page.devices()) == len(demo.rows()) == 1


def test_a_browser_changes_hands(firefox: Firefox, demo: Demo, push_service: PushService) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    page.switch(on=True)
    held = page.current()
    firefox.run(  # the next user signs in while alice's subscription is still in the browser
        """await fetch("/demo/sign-in", {
            method: "POST", headers: { "Content-Type": "application/json" }, body: '{"name": "bob"}',
        })"""
    )
    page.open()
    assert page.current() == held
    assert [row.user_id for row in demo.rows()] == ["bob"]

    page.sign_out()
    assert demo.rows() == []
    assert page.current() is None
    page.sign_in("alice")
    assert page.devices() == []


def test_a_subscription_made_with_another_key_is_replaced(
    firefox: Firefox, demo: Demo, push_service: PushService
) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    page.switch(on=True)
    (before,) = demo.rows()
    demo.stop()
    demo.start(PUSH_VAPID_PRIVATE_KEY=generate_key_pair().private)
    page.open()
    (after,) = demo.rows()
    assert after.endpoint != before.endpoint
    assert list(push_service.channels) == [after.endpoint]
    registered = [one["key"] for one in push_service.log if one.get("messageType") == "register"]
    assert (
        registered[-1].rstrip("=") == demo.app.test_client().get("/push/vapid-public-key").json["publicKey"]
    )


def test_the_browser_is_not_left_subscribed_where_the_server_says_no(
    firefox: Firefox, demo: Demo, push_service: PushService
) -> None:
    page = Page(firefox, demo)
    refused = 'return (await import("/push/client.js")).subscribe().catch((error) => error.message)'
    assert firefox.run(refused) == "Sign in first."
    assert page.current() is None
    demo.stop()
    demo.start(PUSH_TRUSTED_PUSH_SERVICES=[])
    page.open()
    page.sign_in("alice")
    assert firefox.run(refused).startswith("The server refused (422): ")
    assert page.current() is None
    assert push_service.channels == {}


def test_a_server_that_is_away_does_not_cost_a_subscription(firefox: Firefox, demo: Demo) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    page.switch(on=True)
    held = page.current()
    demo.stop()
    message = firefox.run(
        'return (await import("/push/client.js")).subscribe().catch((error) => error.message)'
    )
    demo.start()
    assert message == "The server could not be reached."
    assert page.current() == held


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])  # same-site with another port, and cross-site
def test_a_page_of_another_origin_gets_nowhere(
    firefox: Firefox, demo: Demo, host: str, tmp_path: Path
) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    answers: list[tuple[str, str | None, int]] = []

    def note(_app: Flask, response: Response) -> None:
        if request.method != "OPTIONS":  # those that are asked beforehand, and told nothing
            answers.append((request.path, request.mimetype, response.status_code))

    request_finished.connect(note, demo.app)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "index.html").write_text("<!doctype html><title>evil</title>")
    handler = partial(SilentHandler, directory=str(tmp_path / "evil"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as evil:
        threading.Thread(target=evil.serve_forever, args=[0.05], daemon=True).start()
        firefox.open(f"http://{host}:{evil.server_port}/")
        read = firefox.run(ATTACK, f"http://127.0.0.1:{demo.port}", json.dumps(subscription()))
        evil.shutdown()
    assert read == []  # nothing that was answered could be read
    tried = {(path, mimetype) for path, mimetype, _ in answers}
    assert ("/push/subscribe", "text/plain") in tried
    assert ("/push/subscribe", "application/x-www-form-urlencoded") in tried
    assert {status for path, _, status in answers if request_changes(path)} == {403}
    assert demo.rows() == []


ATTACK = """
    const [site, body] = args;
    const read = [];
    const attempt = async (path, options) => {
        try {
            const response = await fetch(site + path, { credentials: "include", ...options });
            if (response.type !== "opaque") read.push(path);
        } catch {}
    };
    const json = { method: "POST", body, headers: { "Content-Type": "application/json" } };
    await attempt("/push/subscribe", json);
    await attempt("/push/subscriptions", {});
    await attempt("/push/subscriptions/1", { method: "DELETE" });
    for (const type of ["text/plain", "application/x-www-form-urlencoded"]) {
        await attempt("/push/subscribe", { method: "POST", mode: "no-cors", body, headers: { "Content-Type": type } });
    }
    navigator.sendBeacon(site + "/push/unsubscribe", body);
    for (const enctype of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
        const frame = document.body.appendChild(document.createElement("iframe"));
        frame.name = enctype;
        const form = document.body.appendChild(document.createElement("form"));
        Object.assign(form, { method: "POST", action: site + "/push/subscribe", enctype, target: enctype });
        form.append(Object.assign(document.createElement("input"), { name: body, value: "" }));
        const loaded = new Promise((resolve) => { frame.onload = resolve; });
        form.submit();
        await loaded;
    }
    return read;
"""


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def request_changes(path: str) -> bool:
    return path in ("/push/subscribe", "/push/unsubscribe")


def test_denied_permission_is_said_in_words(demo: Demo, push_service: PushService) -> None:
    firefox = Firefox(push_service.websocket, **{"permissions.default.desktop-notification": 2})
    try:
        page = Page(firefox, demo)
        page.sign_in("alice")
        page.click("switch")
        firefox.wait_until("document.getElementById('message').textContent")
        assert "blocked for this site" in page.message
        assert demo.rows() == []
    finally:
        firefox.forget()


def test_a_page_that_is_not_secure_is_told_so(demo: Demo, push_service: PushService) -> None:
    # Firefox trusts 127.0.0.1 and localhost, and no other name over plain HTTP.
    demo.app.config["TRUSTED_HOSTS"] = None
    firefox = Firefox(push_service.websocket, **{"network.dns.localDomains": "site.example"})
    try:
        firefox.open(f"http://site.example:{demo.port}/")
        message = firefox.wait_until("document.getElementById('message').textContent")
        assert "open this site over https" in message
    finally:
        firefox.forget()


def test_the_browser_gets_over_a_push_service_that_forgot_it(
    firefox: Firefox, demo: Demo, push_service: PushService
) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    page.switch(on=True)
    (before,) = demo.rows()
    push_service.forget_the_browser()
    for _ in range(200):
        rows = demo.rows()
        if [row.endpoint for row in rows] == list(push_service.channels) and rows:
            break
        firefox.run("await new Promise((done) => setTimeout(done, 100))")
    (after,) = demo.rows()
    assert after.endpoint != before.endpoint
    held = page.current()
    assert held is not None
    assert (after.endpoint, after.keys_auth) == (held["endpoint"], held["keys"]["auth"])


def shown(firefox: Firefox, number: int = 1) -> list[dict[str, Any]]:
    firefox.wait_until(
        f"(await (await navigator.serviceWorker.ready).getNotifications()).length === {number}"
    )
    notifications: list[dict[str, Any]] = firefox.run(NOTIFICATIONS)
    return notifications


def send(demo: Demo, *arguments: str) -> str:
    done = demo.app.test_cli_runner().invoke(args=["push", "send", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_whole_circle(firefox: Firefox, demo: Demo, push_service: PushService) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    page.switch(on=True)
    said = send(
        demo, "alice", "--title", "Grüße 🎉", "--body", "日本語", "--navigate", "/?inbox", "--tag", "t"
    )
    assert "1 sent" in said
    (notification,) = shown(firefox)
    assert (notification["title"], notification["body"], notification["tag"]) == ("Grüße 🎉", "日本語", "t")
    assert notification["data"]["navigate"] == "/?inbox"
    assert push_service.codes() == [100]  # Firefox decrypted it and handed it to the worker

    firefox.run(
        "await (await (await navigator.serviceWorker.ready).pushManager.getSubscription()).unsubscribe()"
    )
    assert len(demo.rows()) == 1  # the server was not told
    assert "1 gone" in send(demo, "alice", "--title", "x")
    assert demo.rows() == []


def test_the_page_sends_itself_one(firefox: Firefox, demo: Demo) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    page.switch(on=True)
    page.click("send")
    (notification,) = shown(firefox)
    assert notification["title"] == "Hello alice"
    firefox.wait_until("document.getElementById('message').textContent === 'Sent to 1 of 1 devices.'")


def test_the_next_user_of_a_browser_never_sees_what_was_meant_for_the_first(
    firefox: Firefox, demo: Demo, push_service: PushService
) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    page.switch(on=True)
    page.sign_out()
    page.sign_in("bob")
    page.switch(on=True)
    assert "0 sent, 0 gone, 0 failed" in send(demo, "alice", "--title", "for alice")
    assert "1 sent" in send(demo, "bob", "--title", "for bob")
    assert [one["title"] for one in shown(firefox)] == ["for bob"]


def test_a_message_after_a_changed_key_arrives(
    firefox: Firefox, demo: Demo, push_service: PushService
) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    page.switch(on=True)
    demo.stop()
    demo.start(PUSH_VAPID_PRIVATE_KEY=generate_key_pair().private)
    page.open()
    assert "1 sent" in send(demo, "alice", "--title", "new key")
    assert [one["title"] for one in shown(firefox)] == ["new key"]


def test_a_browser_that_was_closed_gets_its_message_later(
    firefox: Firefox, demo: Demo, push_service: PushService
) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    page.switch(on=True)
    firefox.close()
    assert "1 sent" in send(demo, "alice", "--title", "meanwhile")
    firefox.start()
    page.open()
    assert [one["title"] for one in shown(firefox)] == ["meanwhile"]


def test_a_push_without_content_shows_something(
    firefox: Firefox, demo: Demo, push_service: PushService
) -> None:
    page = Page(firefox, demo)
    page.sign_in("alice")
    page.switch(on=True)
    held = page.current()
    assert held is not None
    assert push_service.deliver(held["endpoint"]) == 100
    (notification,) = shown(firefox)
    assert notification["title"] == "127.0.0.1"
