"""Clicks on notifications: the window that shows the target now is focused, else the target is opened."""

import time

import pytest
from flask import redirect

from tests.browser.firefox import Firefox
from tests.browser.site import EMPTY_PAGE, Site

pytestmark = pytest.mark.slow

PAGE = f'{EMPTY_PAGE}<script type="module" src="/push/client.js"></script>'
WAIT = 2  # seconds in which a second window would open


@pytest.fixture
def site_with_pages(firefox: Firefox, site: Site) -> Site:
    """A site whose pages load client.js, and alice subscribed."""
    site.subscribe(firefox, "alice")
    for path in ("/home", "/inbox", "/settings"):
        site.pages[path] = PAGE
    site.pages["/plain"] = EMPTY_PAGE
    site.pages["/mail"] = redirect("/inbox")
    return site


def click(site: Site, firefox: Firefox, target: str) -> list[str]:
    """Send a message, click its notification, and return the tabs' paths once all have loaded."""
    before = firefox.tabs()
    assert "1 sent" in site.send("alice", "--title", "click me", "--navigate", target)
    firefox.click_notification("click me")
    deadline = time.monotonic() + WAIT
    while firefox.tabs() == before and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    return [tab.removeprefix(site.url) for tab in firefox.tabs()]


def test_a_window_that_shows_the_target_is_used(firefox: Firefox, site_with_pages: Site) -> None:
    firefox.open(f"{site_with_pages.url}/inbox")
    assert click(site_with_pages, firefox, "/inbox") == ["/inbox"]


def test_a_window_without_client_js_is_used(firefox: Firefox, site_with_pages: Site) -> None:
    firefox.open(f"{site_with_pages.url}/plain")
    assert click(site_with_pages, firefox, "/plain") == ["/plain"]


@pytest.mark.parametrize(
    ("shown", "target"), [("/inbox#latest", "/inbox"), ("/inbox", "/inbox#latest"), ("/inbox#a", "/inbox#b")]
)
def test_a_fragment_makes_no_difference(
    firefox: Firefox, site_with_pages: Site, shown: str, target: str
) -> None:
    firefox.open(site_with_pages.url + shown)
    assert len(click(site_with_pages, firefox, target)) == 1


def test_a_single_page_application_that_has_reached_the_target_is_used(
    firefox: Firefox, site_with_pages: Site
) -> None:
    firefox.open(f"{site_with_pages.url}/home")
    firefox.run("history.pushState(null, '', '/inbox')")
    assert click(site_with_pages, firefox, "/inbox") == ["/inbox"]


def test_a_single_page_application_that_has_left_the_target_stays(
    firefox: Firefox, site_with_pages: Site
) -> None:
    firefox.open(f"{site_with_pages.url}/inbox")
    firefox.run("history.pushState(null, '', '/settings')")
    assert click(site_with_pages, firefox, "/inbox") == ["/settings", "/inbox"]


def test_a_redirected_window_is_used(firefox: Firefox, site_with_pages: Site) -> None:
    firefox.open(f"{site_with_pages.url}/mail")
    assert click(site_with_pages, firefox, "/inbox") == ["/inbox"]


def test_a_target_that_redirects_opens_one_window(firefox: Firefox, site_with_pages: Site) -> None:
    firefox.open(f"{site_with_pages.url}/home")
    assert click(site_with_pages, firefox, "/mail") == ["/home", "/inbox"]
    assert click(site_with_pages, firefox, "/mail") == ["/home", "/inbox"]


def test_a_window_inside_a_frame_is_not_used(firefox: Firefox, site_with_pages: Site) -> None:
    site_with_pages.pages["/framing"] = f'{EMPTY_PAGE}<iframe src="/inbox"></iframe>'
    firefox.open(f"{site_with_pages.url}/framing")
    assert click(site_with_pages, firefox, "/inbox") == ["/framing", "/inbox"]
