"""The pages' snippet, as it stands there, in a page of a host."""

import json

import pytest

from tests.browser.firefox import Firefox
from tests.browser.site import Site
from tests.support.deployment import block
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

SNIPPET = block("html", '<button id="notify">')
USER = "{{ current_user.get_id() | tojson }}"


CURRENT = "(await (await import('/push/client.js')).current())"


def open_page(firefox: Firefox, site: Site, user: str | None) -> None:
    assert USER in SNIPPET
    site.pages["/"] = f"<!doctype html><body>{SNIPPET.replace(USER, json.dumps(user))}"
    firefox.open(f"{site.url}/")


def test_the_snippet_subscribes_on_a_click_and_resumes_on_every_load(firefox: Firefox, site: Site) -> None:
    site.sign_in(firefox, "alice")
    open_page(firefox, site, "alice")
    firefox.wait_until("document.getElementById('notify').onclick !== null")
    assert site.rows() == []
    firefox.run("document.getElementById('notify').click()")
    wait_until(lambda: len(site.rows()) == 1)
    (subscribed,) = site.rows()

    open_page(firefox, site, None)
    firefox.wait_until(f"{CURRENT} === null")
    wait_until(lambda: site.rows() == [])
    open_page(firefox, site, "alice")
    wait_until(lambda: len(site.rows()) == 1)
    (again,) = site.rows()
    firefox.wait_until(f"{CURRENT}?.endpoint === {json.dumps(again.endpoint)}")
    assert again.endpoint != subscribed.endpoint
