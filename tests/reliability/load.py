"""Load: mixed requests for a minute, slow clients, and restarts under load.

python -m tests.reliability.load [--seconds 60] [--slow 500] [--restarts 50]     (needs wrk and nginx)
"""

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.bench import subscribe
from tests.reliability.common import KEYS, Clients, Report, database_server, require_programs, slowest
from tests.support.deployment import Deployment

CLIENTS = 5_000
CONNECTIONS = 200
MAX_GROWTH = 1.05  # of the memory, after a warm-up
STOP_TIMEOUT = 120  # seconds; gunicorn's own is 30, for requests in flight


class Load(NamedTuple):
    """The result of a run of wrk."""

    rate: float  # requests a second
    p99: float  # seconds
    errors: int


def main() -> None:
    """Load a site in three ways."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.load")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--slow", type=int, default=500, help="slow connections")
    parser.add_argument("--restarts", type=int, default=50, help="of each kind")
    options = parser.parse_args()
    require_programs("wrk", "nginx")
    report = Report()
    with database_server() as (server, folder):
        site = Deployment(server.create_database("load"), folder)
        site.flask("db", "upgrade")
        clients = folder / "clients"
        clients.write_text("".join(client(number, site) for number in range(CLIENTS)))
        with site.gunicorn(stdout=subprocess.DEVNULL) as gunicorn:
            mixed_requests(site, gunicorn.pid, clients, options.seconds, report)
            with site.nginx():
                asyncio.run(slow_clients(site, clients, options.slow, report))
        restarts(site, options.restarts, report)
    report.finish()


def client(number: int, site: Deployment) -> str:
    """Return the line of a client: a cookie and a body."""
    endpoint = f"https://updates.push.services.mozilla.com/wpush/v2/{'x' * 140}/stored/{number}"
    body = json.dumps({"endpoint": endpoint, "expirationTime": None, "keys": KEYS})
    return f"{site.cookie(f'caller {number}')}\t{body}\n"


def wrk(url: str, connections: int, clients: Path, run: str, seconds: float) -> list[str]:
    """Return a wrk command line."""
    script = Path(subscribe.__file__).with_suffix(".lua")
    load = ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script)]
    return [*load, f"{url}/push/subscribe", "--", str(clients), run]


def result(output: str) -> Load:
    """Parse the output of wrk."""
    requests, _, p99, errors = output.rpartition("RESULT ")[2].split()
    return Load(float(requests), float(p99) / 1_000, int(errors))


def memory(gunicorn: int) -> float:
    """Return the unshared memory of gunicorn's workers, in MiB."""
    workers = psutil.Process(gunicorn).children()
    return sum(worker.memory_full_info().uss for worker in workers) / 2**20


def mixed_requests(site: Deployment, gunicorn: int, clients: Path, seconds: int, report: Report) -> None:
    """Load gunicorn itself over 200 connections, and measure its memory."""

    def load(run: str, seconds: float) -> Load:
        command = wrk(site.url, CONNECTIONS, clients, run, seconds)
        return result(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    load("mixed warm-up", max(15, seconds // 4))
    before = memory(gunicorn)
    measured = load("mixed", seconds)
    growth = memory(gunicorn) / before
    what = f"{CONNECTIONS} connections, {seconds} s, 90 % repeats, 8 % new, 2 % invalid"
    report.guarantee(f"{what}: 5xx and broken connections", measured.errors, measured.errors == 0)
    report.figure("requests a second, and their 99th percentile in seconds", rate_and_p99(measured))
    report.guarantee(
        f"memory of gunicorn's workers, ratio after to before, at most {MAX_GROWTH} ({before:.0f} MiB before)",
        f"{growth:.3f}", growth < MAX_GROWTH,
    )  # fmt: skip


async def slow_clients(site: Deployment, clients: Path, number: int, report: Report) -> None:
    """Load the site through nginx, beside clients that send a byte a second."""
    stop = asyncio.Event()
    sent = 0

    async def send(position: int) -> None:
        nonlocal sent
        _, writer = await asyncio.open_connection("127.0.0.1", site.tls_port, ssl=site.context())
        head = (
            f"POST /push/subscribe HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {site.cookie('slow')}\r\n"
            "Content-Type: application/json\r\nContent-Length: 9000\r\n"
        )
        is_head_slow = position % 2 == 1
        if not is_head_slow:
            writer.write(f"{head}\r\n".encode())
        for byte in (head if is_head_slow else "x" * 9_000).encode():
            if stop.is_set():
                break
            writer.write(bytes([byte]))
            await writer.drain()
            sent += 1
            await asyncio.sleep(1)
        writer.transport.abort()

    slow = [asyncio.create_task(send(position)) for position in range(number)]
    await asyncio.sleep(5)
    load = await asyncio.create_subprocess_exec(
        *wrk(site.tls_url, 32, clients, "repeats", 15), stdout=subprocess.PIPE
    )
    output, _ = await load.communicate()
    connected = sum(not task.done() for task in slow)
    stop.set()
    await asyncio.gather(*slow)
    measured = result(output.decode())
    report.guarantee(
        f"32 connections beside {connected} of {number} that send a byte a second ({sent:,} bytes): errors",
        measured.errors, measured.errors == 0 and connected == number,
    )  # fmt: skip
    report.figure("requests a second, and their 99th percentile in seconds", rate_and_p99(measured))


def rate_and_p99(load: Load) -> str:
    """Return the figures of a run that depend on the machine."""
    return f"{load.rate:,.0f}, {load.p99:.3f}"


def restarts(site: Deployment, number: int, report: Report) -> None:
    """Reload and restart gunicorn on systemd's socket, under load through nginx."""
    with socket.create_server(("127.0.0.1", site.port), backlog=2048) as listener, site.nginx():
        gunicorn = site.start_on(listener)

        async def reload() -> None:
            gunicorn.send_signal(signal.SIGHUP)

        async def restart() -> None:
            nonlocal gunicorn
            gunicorn.terminate()
            await asyncio.to_thread(gunicorn.wait, STOP_TIMEOUT)
            gunicorn = await asyncio.to_thread(site.start_on, listener)

        try:
            asyncio.run(under_load(site, "SIGHUP", reload, number, report))
            asyncio.run(under_load(site, "SIGTERM and a new start", restart, number, report))
        finally:
            gunicorn.terminate()
            gunicorn.wait(STOP_TIMEOUT)


async def under_load(
    site: Deployment, name: str, interrupt: Callable[[], Awaitable[None]], number: int, report: Report
) -> None:
    """Interrupt the site repeatedly while browsers subscribe."""
    clients = Clients(site, tls=True, repeats=True)
    await clients.start(CONNECTIONS)
    for _ in range(number):
        await asyncio.sleep(2.5)
        await clients.recovery_after(time.monotonic())  # a slow machine may still be starting
        await interrupt()
    await asyncio.sleep(2.5)
    await clients.stop()
    statuses = clients.statuses()
    report.guarantee(
        f"{name}, {number} times, {CONNECTIONS} connections: all responses are 200", dict(statuses),
        set(statuses) == {200},
    )  # fmt: skip
    report.figure("slowest response, seconds", f"{slowest(clients.responses):.1f}")


if __name__ == "__main__":
    main()
