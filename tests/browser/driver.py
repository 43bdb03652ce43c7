"""The parts that the drivers of both browsers share: processes, remote calls, JavaScript in pages."""

import itertools
import json
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

from tests.support.waiting import wait_until

NOTIFICATIONS = """
    const registration = await navigator.serviceWorker.getRegistration("/push/");
    const fields = ["title", "body", "tag", "data", "icon", "image", "badge", "lang", "dir", "silent", "renotify",
        "requireInteraction", "timestamp", "vibrate", "actions"];
    const values = (notification) => Object.fromEntries(fields.map((field) => [field, notification[field]]));
    return (await registration.getNotifications()).map(values);
"""


class JavaScriptError(AssertionError):
    """An exception of the script."""

    def __init__(self, name: str, message: str):
        super().__init__(f"{name}: {message}")
        self.name, self.message = name, message


class Connection:
    """Remote calls as JSON on a websocket: WebDriver BiDi and the Chrome DevTools Protocol."""

    def __init__(self, websocket: ClientConnection):
        self._websocket = websocket
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    @classmethod
    @contextmanager
    def to(cls, url: str) -> Iterator[Self]:
        """Connect to a browser until the end of the block."""
        with connect(url, max_size=None, proxy=None) as websocket:
            yield cls(websocket)

    def call(self, method: str, parameters: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """Call a method and return its result; `fields` are added to the request."""
        request_id = next(self._ids)
        self._websocket.send(json.dumps({"id": request_id, "method": method, "params": parameters} | fields))
        while (response := json.loads(self._websocket.recv(30))).get("id") != request_id:
            self.events.append(response)
        assert "result" in response, f"{method}: {response}"
        result: dict[str, Any] = response["result"]
        return result


class Browser(ABC):
    """A browser with one page that scripts run in."""

    @abstractmethod
    def open(self, url: str) -> None:
        """Open a URL in the page, and wait until it is loaded."""

    @abstractmethod
    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of an async function in the page, with `args`, and return its result.

        Raises JavaScriptError if the script throws.
        """

    def call_client(self, function: str) -> Any:
        """Call a function of client.js in the page, and return its result."""
        return self.run('return (await import("/push/client.js"))[args[0]]()', function)

    def subscription(self) -> dict[str, Any] | None:
        """Return the PushSubscription of the page's browser as JSON."""
        value: dict[str, Any] | None = self.run(
            'return (await (await import("/push/client.js")).current())?.toJSON() ?? null'
        )
        return value

    def run_with_registration(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page, with the service worker's `registration`."""
        return self.run(
            f'const registration = await navigator.serviceWorker.getRegistration("/push/"); {script}',
            *arguments,
        )

    def wait_until(self, condition: str, seconds: float = 15) -> Any:
        """Wait until an expression is true in the page, and return its value."""
        value = None

        def is_true() -> object:
            nonlocal value
            value = self.run(f"return {condition}")
            return value

        wait_until(is_true, seconds)
        return value

    def notifications(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait until this number of notifications is shown, and return them."""
        self.wait_until(
            "((await (await navigator.serviceWorker.getRegistration('/push/'))?.getNotifications()) ?? []).length"
            f" === {count}"
        )
        notifications: list[dict[str, Any]] = self.run(NOTIFICATIONS)
        return notifications


def async_function(script: str) -> str:
    """Return a JavaScript function that takes `args` as JSON, and returns a value or an error as JSON."""
    return f"""async (json) => {{
        const args = JSON.parse(json);
        try {{
            return JSON.stringify({{ value: await (async () => {{ {script} }})() }});
        }} catch (error) {{
            return JSON.stringify({{ name: error.name, message: error.message }});
        }}
    }}"""


def value_of(text: str) -> Any:
    """Return the value of an async_function's result.

    Raises JavaScriptError if the script threw.
    """
    result = json.loads(text)
    if "message" in result:
        raise JavaScriptError(**result)
    return result.get("value")


@contextmanager
def running(command: list[str], home: Path, is_ready: Callable[[], Any]) -> Iterator[None]:
    """Run a browser from the time it is ready to the end of the block."""
    process = subprocess.Popen(
        command,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def is_ready_or_exited() -> bool:
        return bool(is_ready()) or process.poll() is not None

    try:
        wait_until(is_ready_or_exited, 60)
        assert process.poll() is None, f"{command[0]} exited with status {process.returncode}"
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
