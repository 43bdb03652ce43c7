"""A push service for Firefox: endpoints that messages are posted to, and a websocket that brings them."""

import contextlib
import json
import secrets
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.support.push_server import verify
from tests.support.subscriptions import base64url


class PushService:
    """Listens on a port of 127.0.0.1 until it is closed."""

    def __init__(self) -> None:
        self._server = serve(
            self._talk, "127.0.0.1", 0, subprotocols=[Subprotocol("push-notification")], close_timeout=0.5
        )
        self.websocket = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/"
        self._endpoints = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.origin = f"http://127.0.0.1:{self._endpoints.server_port}"
        self.answers: list[int] = []  # the status of each message that was posted
        self._undelivered: list[tuple[str, str]] = []  # endpoint, body
        self.log: list[dict[str, Any]] = []
        self.channels: dict[str, str] = {}  # endpoint → channel
        self._connections: list[ServerConnection] = []
        self._user_agent = uuid.uuid4().hex
        self._acknowledged = threading.Condition()
        self._threads = [
            threading.Thread(target=self._server.serve_forever),
            threading.Thread(target=self._endpoints.serve_forever, args=[0.05]),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._endpoints.shutdown()
        self._endpoints.server_close()
        for thread in self._threads:
            thread.join(10)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        push_service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                verify(self.headers["Authorization"])
                status = push_service.post(push_service.origin + self.path, base64url(body))
                push_service.answers.append(status)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler

    def post(self, endpoint: str, body: str) -> int:
        """Take a message as RFC 8030 says, and return the status: kept for a browser that is closed."""
        if endpoint not in self.channels:
            return 410
        try:
            self.deliver(endpoint, body)
        except (ConnectionClosed, IndexError):
            self._undelivered.append((endpoint, body))
        return 201

    def deliver(self, endpoint: str, body: str | None = None) -> int:
        """Bring a push message to the browser; `body` is base64url of aes128gcm. Returns Firefox's code."""
        version = secrets.token_hex(8)
        message = {
            "messageType": "notification",
            "channelID": self.channels[endpoint],
            "version": version,
            "ttl": 60,
        }
        if body is not None:
            message |= {"data": body, "headers": {"encoding": "aes128gcm"}}
        self._connections[-1].send(json.dumps(message))
        with self._acknowledged:
            self._acknowledged.wait_for(lambda: self._code(version) is not None, 10)
        code = self._code(version)
        assert code is not None, "Firefox did not acknowledge"
        return code

    def codes(self) -> list[int]:
        """Return what Firefox said of each message."""
        return [update["code"] for one in list(self.log) for update in one.get("updates", ())]

    def forget_the_browser(self) -> None:
        """Lose what is known of the browser, as after a loss of data: all its endpoints are gone."""
        self._user_agent = uuid.uuid4().hex
        self.channels.clear()
        for connection in list(self._connections):
            with contextlib.suppress(ConnectionClosed):
                connection.close()

    def _code(self, version: str) -> int | None:
        updates = (update for one in list(self.log) for update in one.get("updates", ()))
        return next((update["code"] for update in updates if update["version"] == version), None)

    def _talk(self, connection: ServerConnection) -> None:
        self._connections.append(connection)
        with contextlib.suppress(ConnectionClosed):  # a browser that is closed just goes
            self._answer_all(connection)
        self._connections.remove(connection)

    def _answer_all(self, connection: ServerConnection) -> None:
        for text in connection:
            message = json.loads(text)
            self.log.append(message)
            if message.get("messageType") in ("ack", "nack"):
                with self._acknowledged:
                    self._acknowledged.notify_all()
            elif (answer := self._answer(message)) is not None:
                connection.send(json.dumps(answer))
            if message.get("messageType") == "hello":
                undelivered, self._undelivered = self._undelivered, []
                for endpoint, body in undelivered:
                    threading.Thread(target=self.deliver, args=[endpoint, body]).start()

    def _answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        match message:
            case {"messageType": "hello"}:
                return {
                    "messageType": "hello",
                    "status": 200,
                    "uaid": self._user_agent,
                    "use_webpush": True,
                    "broadcasts": {},
                }
            case {"messageType": "register", "channelID": channel}:
                known = (one for one, its in self.channels.items() if its == channel)
                endpoint = next(known, f"{self.origin}/wpush/v2/{secrets.token_hex()}")
                self.channels[endpoint] = channel
                return {
                    "messageType": "register",
                    "status": 200,
                    "channelID": channel,
                    "pushEndpoint": endpoint,
                }
            case {"messageType": "unregister", "channelID": channel}:
                for endpoint in [one for one, its in self.channels.items() if its == channel]:
                    del self.channels[endpoint]
                return {"messageType": "unregister", "status": 200, "channelID": channel}
        return None if message else {}  # {} is a ping
