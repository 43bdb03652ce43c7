"""A push service for Chromium: check-in and registration over HTTP, and delivery by MCS over TLS.

Messages are Protocol Buffers. Fields are numbered as in Chromium's google_apis/gcm/protocol.
"""

import secrets
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

VERSION = 41
HEARTBEAT_PING, HEARTBEAT_ACK, LOGIN_REQUEST, LOGIN_RESPONSE, DATA_MESSAGE = 0, 1, 2, 3, 8  # tags of MCS
VARINT, FIXED64, BYTES = 0, 1, 2  # wire types


class PushService:
    """Listens on two ports of 127.0.0.1 until it is closed."""

    def __init__(self, certificate: Path, key: Path):
        self._registrations: dict[str, dict[str, str]] = {}  # the browser's form, by token
        self._connected = threading.Condition()
        self._connection: BinaryIO | None = None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        http = ThreadingHTTPServer(("127.0.0.1", 0), _http_handler(self._register))
        mcs = _MCSServer(("127.0.0.1", 0), _mcs_handler(self._serve, context))
        self.origin = f"http://127.0.0.1:{http.server_port}"
        self.mcs_origin = f"https://127.0.0.1:{mcs.server_address[1]}"
        self._servers = [http, mcs]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def deliver(self, endpoint: str, body: bytes) -> None:
        """Deliver an aes128gcm body to the browser, once it is connected."""
        registration = self._registrations[endpoint.rpartition("/")[2]]
        message = (
            _field(2, secrets.token_hex(8))  # id
            + _field(3, registration["sender"])
            + _field(5, registration["app"])
            + _field(7, _field(1, "subtype") + _field(2, registration["X-subtype"]))
            + _field(7, _field(1, "content-encoding") + _field(2, "aes128gcm"))
            + _field(9, secrets.token_hex(8))  # persistent id
            + _field(17, 60)  # TTL
            + _field(18, int(time.time() * 1000))
            + _field(21, body)
        )
        with self._connected:
            assert self._connected.wait_for(lambda: self._connection, 60), "Chromium did not connect"
            assert self._connection is not None
            _write_frame(self._connection, DATA_MESSAGE, message)

    def _register(self, form: dict[str, str]) -> str:
        if form.get("delete") == "true":
            for token, registration in list(self._registrations.items()):
                if registration.get("X-subtype") == form.get("X-subtype"):
                    del self._registrations[token]
            return f"deleted={form['app']}"
        token = f"{secrets.token_hex(6)[:11]}:{secrets.token_hex(45)}"
        self._registrations[token] = form
        return f"token={token}"

    def _serve(self, stream: BinaryIO) -> None:
        stream.read(1)  # the version
        while (tag := stream.read(1)) != b"":
            message = stream.read(_read_varint(stream))
            if tag[0] == LOGIN_REQUEST:
                with self._connected:
                    stream.write(bytes([VERSION]))
                    response = _field(1, _read_fields(message)[1]) + _field(8, int(time.time() * 1000))
                    _write_frame(stream, LOGIN_RESPONSE, response)
                    self._connection = stream
                    self._connected.notify_all()
            elif tag[0] == HEARTBEAT_PING:
                with self._connected:
                    _write_frame(stream, HEARTBEAT_ACK, b"")


class _MCSServer(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_arguments: object) -> None:
        """Ignore connections that break."""


def _mcs_handler(serve: Callable[[BinaryIO], None], context: ssl.SSLContext) -> type[BaseRequestHandler]:
    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with context.wrap_socket(self.request, server_side=True) as connection:
                stream: Any = connection.makefile("rwb")
                serve(stream)

    return Handler


def _http_handler(register: Callable[[dict[str, str]], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/checkin":
                self._respond(_check_in_response(), "application/x-protobuf")
            else:
                self._respond(register(dict(parse_qsl(body.decode()))).encode(), "text/plain")

        def _respond(self, content: bytes, content_type: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            pass

    return Handler


def _check_in_response() -> bytes:
    return (
        _field(1, 1)  # successful
        + _field(3, int(time.time() * 1000))
        + _fixed64(7, secrets.randbits(62))  # the device's id
        + _fixed64(8, secrets.randbits(62))  # the device's token
        + _field(10, "v1")
    )


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | VARINT) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | BYTES) + _varint(len(data)) + data


def _fixed64(number: int, value: int) -> bytes:
    return _varint(number << 3 | FIXED64) + value.to_bytes(8, "little")


def _write_frame(stream: BinaryIO, tag: int, message: bytes) -> None:
    stream.write(bytes([tag]) + _varint(len(message)) + message)
    stream.flush()


def _read_varint(stream: BinaryIO) -> int:
    number = shift = 0
    while True:
        byte = stream.read(1)[0]
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number


def _read_fields(message: bytes) -> dict[int, Any]:
    """Return the values of a message by field number, the last of repeated ones."""
    stream, fields = BytesIO(message), dict[int, Any]()
    while stream.tell() < len(message):
        key = _read_varint(stream)
        if key & 7 == VARINT:
            fields[key >> 3] = _read_varint(stream)
        else:
            fields[key >> 3] = stream.read(8 if key & 7 == FIXED64 else _read_varint(stream))
    return fields
