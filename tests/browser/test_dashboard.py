"""The dashboard in Firefox: it loads under its own policy, and refreshes without a reload."""

import base64

import pytest
from flask import request

from pushapp import EVERYONE, Message, send
from pushapp.sending import statistics
from tests.browser.firefox import Firefox
from tests.browser.site import Site

TOKEN = "a token of the browser's tests"
PAGE = "/push/dashboard"


def sign_in(site: Site) -> None:
    """Add the password to each request: a dialog cannot be answered."""
    encoded = base64.b64encode(f"operator:{TOKEN}".encode()).decode()

    @site.app.before_request
    def add_password() -> None:
        request.environ.setdefault("HTTP_AUTHORIZATION", f"Basic {encoded}")


@pytest.mark.slow
def test_it_refreshes_without_a_reload(site: Site, firefox: Firefox) -> None:
    site.stop()
    site.start(PUSH_API_TOKENS=[TOKEN])
    sign_in(site)
    with site.app.app_context():
        send(Message(title="First"), to=EVERYONE)
        statistics.record_daily_counts()
    firefox.open(site.url + PAGE)
    state = """
        window.marked = true;
        return [getComputedStyle(document.querySelector("section")).borderRadius, document.querySelectorAll("#messages li").length];
    """
    radius, _ = firefox.run(state)
    assert radius == "12px"  # the style sheet is loaded
    firefox.run("document.querySelector('#messages a').focus()")
    with site.app.app_context():
        send(Message(title="Second"), to=EVERYONE)
    wait = """
        const wanted = () => document.querySelector("#messages").textContent.includes("To everyone: Second");
        for (let tries = 0; tries < 200 && !wanted(); tries++) await new Promise((resolve) => setTimeout(resolve, 100));
        return [wanted(), window.marked, document.activeElement.tagName, document.querySelector("#problem").hidden];
    """
    assert firefox.run(wait) == [True, True, "A", True]
    site.stop()
    broken = """
        const problem = document.querySelector("#problem");
        for (let tries = 0; tries < 200 && problem.hidden; tries++) await new Promise((resolve) => setTimeout(resolve, 100));
        return problem.textContent;
    """
    assert firefox.run(broken) == "The server cannot be reached. Trying again."
