"""A receiver of webhooks over HTTP; a test sets the responses."""

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

KEY = secrets.token_bytes(32)
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Received(NamedTuple):
    """A webhook with a valid signature."""

    webhook_id: str
    body: bytes

    @property
    def type(self) -> str:
        """The event's type."""
        return str(json.loads(self.body)["type"])

    @property
    def data(self) -> dict[str, Any]:
        """The event's data."""
        data: dict[str, Any] = json.loads(self.body)["data"]
        return data


class Receiver(ThreadingHTTPServer):
    """Listens on a port of 127.0.0.1 until it is closed; checks each signature."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/hooks?from=push"
        self.statuses: list[int] = []  # of the first responses; 204 for others
        self.received: list[Received] = []
        self.errors: list[str] = []
        self.settings = {"PUSH_WEBHOOK_URL": self.url, "PUSH_WEBHOOK_SECRET": SECRET}
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()
        assert self.errors == []

    def check(self, path: str, headers: Any, body: bytes) -> None:
        """Check a request as the specification of Standard Webhooks says, and record it."""
        if path != "/hooks?from=push" or headers["Content-Type"] != "application/json":
            self.errors.append(f"{path} {headers['Content-Type']}")
        webhook_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        signed = f"{webhook_id}.{timestamp}.{body.decode()}".encode()
        signature = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        if headers["webhook-signature"] != f"v1,{signature}":
            self.errors.append("wrong signature")
        if abs(int(timestamp) - time.time()) > 5:
            self.errors.append(f"timestamp {timestamp}")
        self.received.append(Received(webhook_id, body))


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.check(self.path, self.headers, body)
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass
