"""A real Chromium, offline, that takes its push messages from the tests' push service.

It is driven over the Chrome DevTools Protocol.
"""

import json
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.browser.driver import Browser, Connection, async_function, running, value_of
from tests.browser.google import PushService
from tests.support.waiting import wait_until

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--password-store=basic",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--ignore-certificate-errors",
    "--remote-debugging-port=0",
)  # fmt: skip


class Chromium(Browser):
    """A browser with a profile in a directory."""

    def __init__(self, profile: Path, push_service: PushService):
        command = [
            str(PROGRAM),
            *FLAGS,
            f"--user-data-dir={profile}",
            f"--gcm-checkin-url={push_service.origin}/checkin",
            f"--gcm-registration-url={push_service.origin}/register",
            f"--gcm-mcs-endpoint={push_service.mcs_origin}",
        ]
        address_file = profile / "DevToolsActivePort"  # two lines: the port and the path

        def address() -> list[str]:
            return address_file.read_text().split() if address_file.exists() else []

        with ExitStack() as resources:
            resources.enter_context(running(command, profile, lambda: len(address()) == 2))
            port, path = address()
            self._connection = resources.enter_context(Connection.to(f"ws://127.0.0.1:{port}{path}"))
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            self._call_page("BackgroundService.startObserving", service="notifications")
            self._call_page("BackgroundService.setRecording", service="notifications", shouldRecord=True)
            self._resources = resources.pop_all()

    def close(self) -> None:
        """Close the browser."""
        self._resources.close()

    def allow_notifications(self, origin: str) -> None:
        """Grant an origin the permission, before its page is opened."""
        self._call("Browser.grantPermissions", origin=origin, permissions=["notifications"])

    def installability_errors(self) -> list[Any]:
        """Return why the page cannot be installed as an application."""
        errors: list[Any] = self._call_page("Page.getInstallabilityErrors")["installabilityErrors"]
        return errors

    def open(self, url: str) -> None:
        """Open a URL in the page, and wait until it is loaded."""
        result = self._call_page("Page.navigate", url=url)
        assert "errorText" not in result, result["errorText"]
        wait_until(
            lambda: self.run("return location.href !== 'about:blank' && document.readyState === 'complete'")
        )

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of an async function in the page, with `args`, and return its result."""
        response = self._call_page(
            "Runtime.evaluate",
            expression=f"({async_function(script)})({json.dumps(json.dumps(arguments))})",
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in response, response["exceptionDetails"]["text"]
        return value_of(response["result"]["value"])

    def notifications(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait until this number of notifications is shown, and return them."""
        # getNotifications() would delete a notification that is stored but not displayed yet. Chromium tells
        # of it shortly before it is on the screen.
        wait_until(lambda: self._displayed() >= count)
        time.sleep(0.2)
        return super().notifications(count)

    def _displayed(self) -> int:
        self._call("Browser.getVersion")  # receives the events so far
        events = [event["params"] for event in self._connection.events if "params" in event]
        names = [parameters.get("backgroundServiceEvent", {}).get("eventName") for parameters in events]
        return names.count("Notification displayed")

    def _call_page(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._connection.call(method, parameters, sessionId=self._session)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._connection.call(method, parameters)
