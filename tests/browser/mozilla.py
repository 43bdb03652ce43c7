"""A push service for Firefox: endpoints that take messages, and a websocket that delivers them."""

import contextlib
import json
import secrets
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.support.push_server import verify
from tests.support.subscriptions import base64url

DECRYPTED = 100  # Firefox's code for a message that it decrypted and passed to the service worker


class PushService:
    """Listens on a port of 127.0.0.1 until it is closed."""

    def __init__(self) -> None:
        self._server = serve(
            self._handle_connection,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol("push-notification")],
            close_timeout=0.5,
        )
        self.websocket = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/"
        self._endpoints = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.origin = f"http://127.0.0.1:{self._endpoints.server_port}"
        self.responses: list[int] = []  # the status of each posted message
        self.received: list[dict[str, Any]] = []  # from the browser
        self.channels: dict[str, str] = {}  # by endpoint
        self.vapid_keys: dict[str, str] = {}  # by channel
        self._undelivered: list[tuple[str, str]] = []  # endpoint, body
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

    def reset(self) -> None:
        """Delete the subscriptions, messages and records of earlier tests."""
        self.channels.clear()
        self.responses.clear()
        self.received.clear()
        self._undelivered.clear()

    def reset_user_agent(self) -> None:
        """Delete the user agent, as a loss of data does: all its endpoints are gone."""
        self._user_agent = uuid.uuid4().hex
        self.channels.clear()
        for connection in list(self._connections):
            with contextlib.suppress(ConnectionClosed):
                connection.close()

    def post(self, endpoint: str, body: str, vapid_key: str) -> int:
        """Accept a message (RFC 8030), and return the status; it is stored while the browser is closed.

        It must be signed with the key that the browser subscribed with (RFC 8292, section 4.2).
        """
        if endpoint not in self.channels:
            return 410
        if self.vapid_keys[self.channels[endpoint]] != vapid_key:
            return 401
        try:
            self.deliver(endpoint, body)
        except (ConnectionClosed, IndexError):
            self._undelivered.append((endpoint, body))
        return 201

    def deliver(self, endpoint: str, body: str | None = None) -> int:
        """Deliver a push message to the browser; `body` is base64url of aes128gcm. Returns Firefox's code."""
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
        assert code is not None, "Firefox did not acknowledge the message"
        return code

    def codes(self) -> list[int]:
        """Return Firefox's code for each message."""
        return [update["code"] for update in self._updates()]

    def registrations(self) -> list[dict[str, Any]]:
        """Return the browser's requests for an endpoint."""
        return [message for message in list(self.received) if message.get("messageType") == "register"]

    def _code(self, version: str) -> int | None:
        return next((update["code"] for update in self._updates() if update["version"] == version), None)

    def _updates(self) -> Iterator[dict[str, Any]]:
        for message in list(self.received):
            yield from message.get("updates", ())

    def _handle_connection(self, connection: ServerConnection) -> None:
        self._connections.append(connection)
        with contextlib.suppress(ConnectionClosed):  # the browser was closed
            for text in connection:
                self._handle_message(connection, json.loads(text))
        self._connections.remove(connection)

    def _handle_message(self, connection: ServerConnection, message: dict[str, Any]) -> None:
        self.received.append(message)
        if message.get("messageType") in ("ack", "nack"):
            with self._acknowledged:
                self._acknowledged.notify_all()
        elif (response := self._response(message)) is not None:
            connection.send(json.dumps(response))
        if message.get("messageType") == "hello":
            undelivered, self._undelivered = self._undelivered, []
            for endpoint, body in undelivered:
                threading.Thread(target=self.deliver, args=[endpoint, body]).start()

    def _response(self, message: dict[str, Any]) -> dict[str, Any] | None:
        match message:
            case {"messageType": "hello"}:
                fields = {"uaid": self._user_agent, "use_webpush": True, "broadcasts": {}}
            case {"messageType": "register", "channelID": channel}:
                self.vapid_keys[channel] = message.get("key", "").rstrip("=")
                fields = {"channelID": channel, "pushEndpoint": self._register(channel)}
            case {"messageType": "unregister", "channelID": channel}:
                for endpoint in self._endpoints_of(channel):
                    del self.channels[endpoint]
                fields = {"channelID": channel}
            case _:
                return None if message else {}  # {} is a ping
        return {"messageType": message["messageType"], "status": 200} | fields

    def _register(self, channel: str) -> str:
        registered = self._endpoints_of(channel)
        endpoint = registered[0] if registered else f"{self.origin}/wpush/v2/{secrets.token_hex()}"
        self.channels[endpoint] = channel
        return endpoint

    def _endpoints_of(self, channel: str) -> list[str]:
        return [endpoint for endpoint, its_channel in self.channels.items() if its_channel == channel]


def _handler(push_service: PushService) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            key = verify(self.headers["Authorization"])["k"]
            status = push_service.post(push_service.origin + self.path, base64url(body), key)
            push_service.responses.append(status)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    return Handler
