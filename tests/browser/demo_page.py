"""The demo site, and its page as a user sees it."""

from pathlib import Path
from typing import Any

from tests.browser.driver import Browser
from tests.browser.site import Site


class Demo(Site):
    """The demo site."""

    def __init__(self, folder: Path, **settings: Any):
        super().__init__(folder, PUSH_DEMO=True, **settings)
        self.pages = {}


class DemoPage:
    """The demo's page, as its user sees it."""

    def __init__(self, browser: Browser, demo: Demo):
        self.browser, self.demo = browser, demo
        self.open()

    def open(self) -> None:
        """Load the page."""
        self.browser.open(f"{self.demo.url}/")
        self.browser.wait_until("document.body.dataset.ready")

    def sign_in(self, name: str) -> None:
        """Sign in through the form."""
        self.browser.run(
            """
            document.getElementById("name").value = args[0];
            document.getElementById("sign-in").requestSubmit();
            """,
            name,
        )
        self.browser.wait_until("!document.getElementById('signed-in').hidden")
        self.browser.wait_until(f"document.getElementById('user').textContent === {name!r}")

    def sign_out(self) -> None:
        """Sign out with the button."""
        self.click("sign-out")
        self.browser.wait_until("!document.getElementById('sign-in').hidden")

    def click(self, element_id: str) -> None:
        """Click an element."""
        self.browser.run("document.getElementById(args[0]).click()", element_id)

    def switch(self, on: bool) -> None:
        """Click the switch, once it shows the other state, and wait until it is on or off."""
        self._wait_for_switch(not on)
        self.click("switch")
        self._wait_for_switch(on)

    def devices(self) -> list[str]:
        """Return the listed push services."""
        names: list[str] = self.browser.run(
            "return [...document.querySelectorAll('#devices li span')].map((span) => span.firstChild.data)"
        )
        return names

    def wait_for_message(self) -> str:
        """Wait until the page shows a message, and return it."""
        message: str = self.browser.wait_until("document.getElementById('message').textContent")
        return message

    def _wait_for_switch(self, on: bool) -> None:
        state = "true" if on else "false"
        self.browser.wait_until(
            f"document.getElementById('switch').getAttribute('aria-checked') === '{state}'"
            " && !document.getElementById('switch').disabled"
        )
