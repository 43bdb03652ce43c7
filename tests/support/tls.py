"""Push services over TLS: nginx with HTTP/2, certificates, and proxies in front of them."""

import contextlib
import socket
import ssl
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.deployment import NGINX, running, wait_for
from tests.support.postgresql import free_port

NAME = "push.example.net"


def self_signed(folder: Path, name: str = NAME, days: float = 1) -> Path:
    """Create a certificate that is valid for some days from yesterday on; return it, beside its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    began = datetime.now(UTC) - timedelta(days=1)
    builder = x509.CertificateBuilder(
        subject,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        began,
        began + timedelta(days=days + 1),
    ).add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    path = folder / f"{name}.{days}.pem"
    path.write_bytes(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
    path.with_suffix(".key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


class Request(NamedTuple):
    """A line of nginx's log."""

    connection: str
    protocol: str
    status: str
    path: str


class TLSPushService(NamedTuple):
    """An nginx that answers every request with 201."""

    origin: str
    port: int
    log: Path

    def requests(self) -> list[Request]:
        """Return the requests so far."""
        return [Request(*line.split()) for line in self.log.read_text().splitlines()]


@contextmanager
def tls_push_service(
    folder: Path, certificate: Path, *, http2: bool = True, options: str = ""
) -> Iterator[TLSPushService]:
    """Run nginx with a certificate."""
    assert NGINX is not None
    port, log = free_port(), folder / "requests.log"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;"
        f" events {{ worker_connections 512; }} http {{ {paths}"
        f" log_format requests '$connection $server_protocol $status $request_uri';"
        f" access_log {log} requests; {options}"
        f" server {{ listen 127.0.0.1:{port} ssl{' http2' if http2 else ''};"
        f" ssl_certificate {certificate}; ssl_certificate_key {certificate.with_suffix('.key')};"
        f" location / {{ return 201; }} }} }}"
    )
    command = [NGINX, "-p", str(folder), "-e", "stderr", "-c", str(configuration)]
    with running(command, stderr=subprocess.DEVNULL) as nginx:
        wait_for(port, nginx)
        yield TLSPushService(f"https://{NAME}:{port}", port, log)


@contextmanager
def tls_server(certificate: Path) -> Iterator[int]:
    """Accept TLS connections on a port of 127.0.0.1, and close them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            context.wrap_socket(client, server_side=True).close()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


class Listener(ABC):
    """Serves each connection in a thread of its own."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    @abstractmethod
    def _serve(self, client: socket.socket) -> None: ...


class Proxy(Listener):
    """An HTTP proxy (CONNECT) or a SOCKS5 proxy that connects every name to 127.0.0.1."""

    def __init__(self, response: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"):
        self.targets: list[str] = []  # name:port
        self._response = response
        super().__init__()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            first = client.recv(1)
            target = self._socks(client) if first == b"\5" else self._connect(client)
            self.targets.append(target)
            if self._response.startswith(b"HTTP/1.1 200") or first == b"\5":
                with socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2]))) as server:
                    threading.Thread(target=_copy, args=[server, client], daemon=True).start()
                    _copy(client, server)

    def _connect(self, client: socket.socket) -> str:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        client.sendall(self._response)
        return head.split()[1].decode()

    @staticmethod
    def _socks(client: socket.socket) -> str:
        client.recv(client.recv(1)[0])
        client.sendall(b"\5\0")  # no authentication
        assert client.recv(4)[3] == 3  # a name, not an address
        name = client.recv(client.recv(1)[0]).decode()
        port = int.from_bytes(client.recv(2))
        client.sendall(b"\5\0\0\1\0\0\0\0\0\0")
        return f"{name}:{port}"


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class RawServer(Listener):
    """Answers each connection's first request with bytes, then keeps the connection open."""

    def __init__(self, response: bytes = b""):
        self.heads: list[bytes] = []  # of the requests
        self.closed = threading.Event()  # a client closed its connection
        self._response = response
        super().__init__()
        self.origin = f"http://127.0.0.1:{self.port}"

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            data: Any = b""
            while b"\r\n\r\n" not in data:
                data += client.recv(65_536)
            self.heads.append(data.partition(b"\r\n\r\n")[0])
            client.sendall(self._response)
            while client.recv(65_536):
                pass
        self.closed.set()
