"""A push service over HTTP that checks and decrypts its requests; a test sets the responses."""

import base64
import json
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import http_ece
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.subscriptions import base64url
from tests.support.waiting import wait_until

# Status, headers and body; or raw bytes; or a function that is called instead of a response.
Response = tuple[int, dict[str, str], bytes] | bytes | Callable[[], object]


class Push(NamedTuple):
    """A received push message."""

    path: str
    headers: dict[str, str]  # names in lower case
    message: dict[str, Any]  # decrypted
    padded_length: int
    claims: dict[str, Any]


class PushServer(ThreadingHTTPServer):
    """Listens on a port of 127.0.0.1 until it is closed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.origin = f"http://127.0.0.1:{self.server_port}"
        self.pushes: list[Push] = []
        self.connections = 0
        self.requests = 0
        self.responses: dict[str, Response] = {}  # by path; 201 for other paths
        self.transient_responses: dict[str, list[Response]] = {}  # by path; the first ones, each once
        self.before_response: Callable[[], object] = lambda: None
        self.after_response: Callable[[], object] = lambda: None  # of raw bytes
        self.errors: list[str] = []  # of requests
        self._lock = threading.Lock()
        self._keys: dict[str, tuple[ec.EllipticCurvePrivateKey, bytes]] = {}
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()

    def subscription(self, response: Response | None = None) -> dict[str, Any]:
        """Return the PushSubscription of a new user agent, whose pushes get this response."""
        path = f"/wpush/{secrets.token_hex(8)}"
        key, auth = ec.generate_private_key(ec.SECP256R1()), secrets.token_bytes(16)
        self._keys[path] = key, auth
        if response is not None:
            self.responses[path] = response
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return {
            "endpoint": self.origin + path,
            "expirationTime": None,
            "keys": {"p256dh": base64url(point), "auth": base64url(auth)},
        }

    def pushes_to(self, subscription: dict[str, Any]) -> list[Push]:
        """Return the push messages to one user agent."""
        return [push for push in self.pushes if self.origin + push.path == subscription["endpoint"]]

    def hold_responses_until(self, requests: int) -> None:
        """Send no response before this many requests have been received."""
        self.before_response = lambda: wait_until(lambda: self.requests >= requests, 5)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count a connection."""
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log no broken connections."""

    def receive(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Check and store a push message."""
        with self._lock:
            self.requests += 1
        if path not in self._keys:
            return
        key, auth = self._keys[path]
        plaintext = http_ece.decrypt(body, private_key=key, auth_secret=auth, version="aes128gcm")
        push = Push(path, headers, json.loads(plaintext), len(plaintext), verify(headers["authorization"]))
        if push.claims["aud"] != self.origin:
            self.errors.append(f"aud is {push.claims['aud']}")
        if not time.time() < push.claims["exp"] <= time.time() + 24 * 60 * 60:
            self.errors.append(f"exp is {push.claims['exp']}")
        self.pushes.append(push)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: PushServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            self.server.receive(
                self.path, {name.lower(): value for name, value in self.headers.items()}, body
            )
        except Exception as error:  # any invalid request must fail the test
            self.server.errors.append(repr(error))
        self.server.before_response()
        if transient := self.server.transient_responses.get(self.path):
            response = transient.pop(0)
        else:
            response = self.server.responses.get(self.path, (201, {"Location": "/m/1"}, b""))
        if callable(response):
            response()
            self.close_connection = True
        elif isinstance(response, bytes):
            self.wfile.write(response)
            self.server.after_response()
            self.close_connection = True
        else:
            status, headers, content = response
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the base class names it
        pass


def verify(authorization: str) -> dict[str, Any]:
    """Check a VAPID Authorization header's signature (RFC 8292, section 3), and return its claims."""
    scheme, _, parameters = authorization.partition(" ")
    assert scheme == "vapid"
    parts = dict(part.strip().split("=", 1) for part in parameters.split(","))
    point, token = _decode(parts["k"]), parts["t"]
    signed, _, signature = token.rpartition(".")
    header, claims = (json.loads(_decode(part)) for part in signed.split("."))
    assert header == {"typ": "JWT", "alg": "ES256"}
    raw = _decode(signature)
    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    public_key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    public_key.verify(der, signed.encode(), ec.ECDSA(SHA256()))
    return {**claims, "k": parts["k"]}


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
