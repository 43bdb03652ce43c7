"""A real Firefox, offline, that takes its push messages from the tests' push service.

It is driven over WebDriver BiDi, with privileged JavaScript for preferences and notifications.
"""

import base64
import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tests.browser.driver import Browser, Connection, async_function, running, value_of
from tests.support.waiting import wait_until

PROGRAM = shutil.which("firefox-esr") or shutil.which("firefox")

Preferences = Mapping[str, bool | int | str | None]

PREFERENCES: Preferences = {
    "dom.push.testing.allowInsecureServerURL": True,
    "dom.push.testing.ignorePermission": True,
    "dom.push.connection.enabled": True,  # remote control turns it off
    "dom.push.retryBaseInterval": 200,
    "permissions.default.desktop-notification": 1,
    "alerts.useSystemBackend": False,
    "dom.webnotifications.disable_open_click_delay": 60_000,  # ms in which a click may open a tab
    "network.proxy.type": 0,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "app.update.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
}
SET_PREFERENCES = """
    const setters = { boolean: "setBoolPref", number: "setIntPref", string: "setStringPref" };
    for (const [name, value] of Object.entries(args[0])) {
        if (value === null) Services.prefs.clearUserPref(name);
        else Services.prefs[setters[typeof value]](name, value);
    }
"""
# All origins' service workers, push subscriptions, cookies, storage and permissions. The workers are first:
# told that their subscription is deleted, they would subscribe again.
DELETE_DATA = """
    for (const alert of Services.wm.getEnumerator("alert:alert")) alert.close();
    const { ServiceWorkerCleanUp } = ChromeUtils.importESModule("resource://gre/modules/ServiceWorkerCleanUp.sys.mjs");
    await ServiceWorkerCleanUp.removeAll();
    await new Promise((resolve) => {
        Services.clearData.deleteData(Ci.nsIClearDataService.CLEAR_ALL, { onDataDeleted: resolve });
    });
"""
SHOWN_TITLES = """
    const titleOf = (alert) => alert.document.getElementById("alertTitleLabel")?.value;
    return [...Services.wm.getEnumerator("alert:alert")].map(titleOf);
"""
# The alert window has no buttons for actions: its listener is told, as the system's alerts do.
CLICK_NOTIFICATION = """
    const [title, name] = args;
    const titleOf = (alert) => alert.document.getElementById("alertTitleLabel")?.value;
    const alert = [...Services.wm.getEnumerator("alert:alert")].find((alert) => titleOf(alert) === title);
    if (alert?.document.readyState !== "complete") return false;
    if (name === null) {
        alert.document.getElementById("alertBox").click();
    } else {
        const action = { action: name, title: name, QueryInterface: ChromeUtils.generateQI(["nsIAlertAction"]) };
        alert.gAlertListener.observe(action, "alertclickcallback", alert.gAlertCookie);
    }
    return true;
"""
# As the system's alerts do when the user dismisses one.
DISMISS_NOTIFICATION = """
    const titleOf = (alert) => alert.document.getElementById("alertTitleLabel")?.value;
    const alert = [...Services.wm.getEnumerator("alert:alert")].find((alert) => titleOf(alert) === args[0]);
    if (alert?.document.readyState !== "complete") return false;
    alert.gAlertListener.observe(null, "alertfinished", alert.gAlertCookie);
    return true;
"""


class Firefox(Browser):
    """A browser with a profile in a directory, which outlasts `close` and `start`."""

    def __init__(self, profile: Path, push_service: str):
        self._profile = profile
        self._preferences = {**PREFERENCES, "dom.push.serverURL": push_service}
        self._changed_preferences: set[str] = set()
        lines = (
            f"user_pref({json.dumps(name)}, {json.dumps(value)});\n"
            for name, value in self._preferences.items()
        )
        (profile / "user.js").write_text("".join(lines))
        self._resources: ExitStack | None = None
        self.start()

    def start(self) -> None:
        """Start the browser."""
        address_file = self._profile / "WebDriverBiDiServer.json"
        address_file.unlink(missing_ok=True)
        command = [
            str(PROGRAM), "--headless", "--remote-debugging-port", "0", "--remote-allow-system-access",
            "--no-remote", "--profile", str(self._profile),
        ]  # fmt: skip
        with ExitStack() as resources:
            resources.enter_context(running(command, self._profile, lambda: _read_json(address_file)))
            address = _read_json(address_file)
            url = f"ws://{address['ws_host']}:{address['ws_port']}/session"
            self._connection = resources.enter_context(Connection.to(url))
            self._call("session.new", capabilities={})
            self._page = self._call("browsingContext.getTree")["contexts"][0]["context"]
            windows = self._call("browsingContext.getTree", **{"moz:scope": "chrome"})["contexts"]
            self._window = windows[0]["context"]
            self._resources = resources.pop_all()

    def close(self) -> None:
        """Close the browser, as its user does."""
        if self._resources is not None:
            self._resources.close()
            self._resources = None

    def reset(self) -> None:
        """Return to an empty page, without data of any site, with the initial preferences."""
        if self._resources is None:  # a test failed before it restarted the browser
            self.start()
        self.open("about:blank")
        for tab in self._call("browsingContext.getTree")["contexts"]:
            if tab["context"] != self._page:
                self._call("browsingContext.close", context=tab["context"])
        self.set_preferences({name: self._preferences.get(name) for name in self._changed_preferences})
        self._changed_preferences.clear()
        self.run_privileged(DELETE_DATA)

    def open(self, url: str) -> None:
        """Open a URL in the page, and wait until it is loaded."""
        self._call("browsingContext.navigate", context=self._page, url=url, wait="complete")

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of an async function in the page, with `args`, and return its result."""
        return self._run({"context": self._page}, script, arguments)

    def run_privileged(self, script: str, *arguments: Any) -> Any:
        """Run a script with the browser's own privileges, for example with `Services`."""
        return self._run({"context": self._window}, script, arguments)

    def set_preferences(self, preferences: Preferences) -> None:
        """Change preferences until the next reset; None is the default."""
        self._changed_preferences.update(preferences)
        self.run_privileged(SET_PREFERENCES, dict(preferences))

    def set_cookie(self, name: str, value: str, domain: str = "127.0.0.1") -> None:
        """Set a cookie; cookies are not separate by port."""
        cookie = {"name": name, "value": {"type": "string", "value": value}, "domain": domain}
        self._call("storage.setCookie", cookie=cookie)

    def tabs(self) -> list[str]:
        """Return the URLs of the tabs."""
        return [tab["url"] for tab in self._call("browsingContext.getTree")["contexts"]]

    def wait_for_tab(self, url: str) -> None:
        """Wait until a tab shows a URL."""
        wait_until(lambda: url in self.tabs())

    def wait_for_alert(self, title: str) -> None:
        """Wait until a notification with this title is on the screen, whatever page is open."""
        wait_until(lambda: title in self.run_privileged(SHOWN_TITLES))

    def click_notification(self, title: str, action: str | None = None) -> None:
        """Wait until a notification with this title is shown, and click it, or one of its actions."""
        wait_until(lambda: self.run_privileged(CLICK_NOTIFICATION, title, action))

    def dismiss_notification(self, title: str) -> None:
        """Wait until a notification with this title is shown, and dismiss it."""
        wait_until(lambda: self.run_privileged(DISMISS_NOTIFICATION, title))

    def screenshot(self, path: Path, width: int, height: int) -> None:
        """Save a screenshot of the page, in a window of this size in pixels."""
        self._call(
            "browsingContext.setViewport",
            context=self._page,
            viewport={"width": width, "height": height},
        )
        picture = self._call("browsingContext.captureScreenshot", context=self._page)["data"]
        path.write_bytes(base64.b64decode(picture))

    def _run(self, target: dict[str, str], script: str, arguments: tuple[Any, ...]) -> Any:
        response = self._call(
            "script.callFunction",
            functionDeclaration=async_function(script),
            arguments=[{"type": "string", "value": json.dumps(arguments)}],
            target=target,
            awaitPromise=True,
        )
        assert response["type"] == "success", response["exceptionDetails"]["text"]
        return value_of(response["result"]["value"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._connection.call(method, parameters)


def _read_json(path: Path) -> Any:
    with suppress(OSError, ValueError):  # not there yet, or not complete
        return json.loads(path.read_text())
    return None
