"""The README's deployment: its gunicorn command, nginx site and settings, read from the README."""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from itsdangerous import URLSafeTimedSerializer

from pushapp.webpush.vapid import generate_key_pair
from tests.support.postgresql import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = README + (ROOT / "pushapp" / "README.md").read_text()
PROGRAMS = Path(sys.executable).parent
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
SECRET = "a deployment's secret"


def block(language: str, first: str) -> str:
    """Return the pages' code block that starts with `first`, without the indentation of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", PAGES, re.MULTILINE | re.DOTALL)
    blocks = [textwrap.dedent(text) for _, text in found]
    (wanted,) = [text for text in blocks if text.startswith(first)]
    return wanted


@contextmanager
def running(command: list[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a program; terminate it and its children at the end of the block."""
    process = subprocess.Popen(
        command, **({"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options), text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)


def wait_for(port: int, process: "subprocess.Popen[str]") -> None:
    """Wait until a program accepts connections on a port."""
    for _ in range(1200):
        assert process.poll() is None, process.stdout and process.stdout.read()
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(port)


def certificate(folder: Path) -> None:
    """Create the certificate and the key that the README's nginx reads."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=example.com",
         "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
         "-keyout", folder / "example.com.key", "-out", folder / "example.com.pem"],
        check=True, capture_output=True,
    )  # fmt: skip


class Deployment:
    """A site on a database: the programs of the README, each on a free port of 127.0.0.1."""

    def __init__(self, database_url: str, folder: Path, *, root: Path = ROOT, **settings: str):
        self.folder = folder
        self.root = root
        self.port = free_port()
        self.tls_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.tls_url = f"https://127.0.0.1:{self.tls_port}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": database_url,
            "SECRET_KEY": SECRET,
            "FLASK_PUSH_VAPID_PRIVATE_KEY": generate_key_pair().private,
            "FLASK_PUSH_VAPID_SUBJECT": "mailto:webmaster@site.org",
            **settings,
        }

    def flask(
        self, *arguments: str, check: bool = True, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a `flask` command of the site."""
        return subprocess.run(
            self.flask_command(*arguments), cwd=self.root, env=self.environment, check=check,
            **({"capture_output": True, "text": True} | options),
        )  # fmt: skip

    @staticmethod
    def flask_command(*arguments: str) -> list[str]:
        """Return the command line of a `flask` command."""
        return [sys.executable, "-m", "flask", "--app", "wsgi", *arguments]

    def start_on(self, listener: socket.socket) -> "subprocess.Popen[str]":
        """Start the README's gunicorn on an open socket, as systemd does."""
        socket_activated = f'exec 3<&{listener.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"'
        return subprocess.Popen(
            ["sh", "-c", socket_activated, *self.gunicorn_command(), "--log-level", "error"],
            cwd=self.root, env=self.environment, pass_fds=[listener.fileno()], text=True,
        )  # fmt: skip

    def gunicorn_command(self) -> list[str]:
        """Return the README's gunicorn command line."""
        line = block("sh", "export DATABASE_URL").strip().splitlines()[-1]
        program, *arguments = line.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}").split()
        return [str(PROGRAMS / program), *arguments]

    @contextmanager
    def gunicorn(self, **options: Any) -> Iterator["subprocess.Popen[str]"]:
        """Run the README's gunicorn."""
        with running(self.gunicorn_command(), cwd=self.root, env=self.environment, **options) as gunicorn:
            wait_for(self.port, gunicorn)
            self.wait_for_workers(gunicorn)
            yield gunicorn

    def wait_for_workers(self, gunicorn: "subprocess.Popen[str]") -> None:
        """Wait until gunicorn has started its workers and one responds: it listens before it starts them."""
        command = self.gunicorn_command()
        number = int(command[command.index("--workers") + 1])
        for _ in range(1200):
            if len(psutil.Process(gunicorn.pid).children()) == number:
                urllib.request.urlopen(f"{self.url}/healthz", timeout=60).close()
                return
            time.sleep(0.05)
        raise TimeoutError("gunicorn's workers have not started")

    @contextmanager
    def nginx(self) -> Iterator["subprocess.Popen[str]"]:
        """Run the README's nginx site, in a configuration like Debian's nginx.conf."""
        assert NGINX is not None
        certificate(self.folder)
        site = block("nginx", "upstream pushapp").replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        site = site.replace("listen 443", f"listen 127.0.0.1:{self.tls_port}")
        site = re.sub(r"/etc/ssl/(certs|private)/", f"{self.folder}/", site)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in kinds)
        configuration = self.folder / "nginx.conf"
        configuration.write_text(
            f"daemon off; worker_processes auto; pid {self.folder}/pid; error_log stderr;"
            f" events {{ worker_connections 768; }} http {{ access_log off; {paths} {site} }}"
        )
        command = [NGINX, "-p", str(self.folder), "-e", "stderr", "-c", str(configuration)]
        with running(command) as nginx:
            wait_for(self.tls_port, nginx)
            yield nginx

    def context(self) -> ssl.SSLContext:
        """Return a TLS context that trusts nginx's certificate."""
        return ssl.create_default_context(cafile=str(self.folder / "example.com.pem"))

    @staticmethod
    def cookie(user: object, secret: str = SECRET) -> str:
        """Return the session cookie of a user, as the site creates it."""
        signer = URLSafeTimedSerializer(
            secret, salt="cookie-session", signer_kwargs={"key_derivation": "hmac", "digest_method": "sha1"}
        )
        return f"access_token={signer.dumps({'user_id': user})}"
