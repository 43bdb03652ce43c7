"""A real Firefox, offline, that takes its push messages from the tests' own push service.

It is driven over WebDriver BiDi, which is JSON on a websocket.
"""

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

PROGRAM = shutil.which("firefox-esr") or shutil.which("firefox")

PREFERENCES = {
    "dom.push.testing.allowInsecureServerURL": True,
    "dom.push.testing.ignorePermission": True,
    "dom.push.connection.enabled": True,
    "dom.push.retryBaseInterval": 200,
    "permissions.default.desktop-notification": 1,
    "alerts.useSystemBackend": False,
    "network.proxy.type": 0,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "app.update.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
}


class Firefox:
    """One browser with a profile of its own, which it keeps when it is closed and started again."""

    def __init__(self, push_service: str, **preferences: Any):
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        settings = PREFERENCES | {"dom.push.serverURL": push_service} | preferences
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in settings.items()]
        Path(self._home.name, "user.js").write_text("".join(lines))
        self.start()

    def start(self) -> None:
        """Start the browser."""
        assert PROGRAM is not None
        self._process = subprocess.Popen(
            [PROGRAM, "--headless", "--remote-debugging-port", "0", "--remote-allow-system-access", "--no-remote",
             "--profile", self._home.name],
            env={"HOME": self._home.name, "PATH": "/usr/bin:/bin"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self._process.stderr is not None
        listening = next(line for line in self._process.stderr if "WebDriver BiDi listening on" in line)
        self._open = ExitStack()
        self._open.enter_context(self._process)
        self._open.callback(self._process.terminate)
        self._socket = self._open.enter_context(connect(f"{listening.split()[-1]}/session", max_size=None))
        self._numbers = itertools.count(1)
        self._call("session.new", capabilities={})
        self._context = self._call("browsingContext.getTree")["contexts"][0]["context"]

    def close(self) -> None:
        """Close the browser, as its user does."""
        self._open.close()

    def forget(self) -> None:
        """Close the browser and throw its profile away."""
        self.close()
        self._home.cleanup()

    def open(self, url: str) -> None:
        """Go to a page."""
        self._call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of an async function in the page, with `args` as given, and return what it returns."""
        answer = self._call(
            "script.callFunction",
            functionDeclaration=f"async (given) => {{ const args = JSON.parse(given);"
            f"return JSON.stringify(await (async () => {{ {script} }})()); }}",
            arguments=[{"type": "string", "value": json.dumps(arguments)}],
            target={"context": self._context},
            awaitPromise=True,
        )
        assert answer["type"] == "success", answer["exceptionDetails"]["text"]
        return json.loads(answer["result"].get("value", "null"))

    def wait_until(self, condition: str, seconds: float = 15) -> Any:
        """Wait until an expression is true in the page, and return its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(f"return {condition}")):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.05)
        return value

    def screenshot(self, path: Path, width: int, height: int) -> None:
        """Keep a picture of the page, in a window of this size in pixels."""
        self._call(
            "browsingContext.setViewport",
            context=self._context,
            viewport={"width": width, "height": height},
        )
        picture = self._call("browsingContext.captureScreenshot", context=self._context)["data"]
        path.write_bytes(base64.b64decode(picture))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(30))).get("id") != number:
            pass  # an event
        assert answer["type"] == "success", f"{method}: {answer.get('message')}"
        result: dict[str, Any] = answer["result"]
        return result
