"""Load: mixed traffic for a minute, slow senders, and restarts while requests come in.

python -m tests.reliability.load [--seconds 60] [--slow 500] [--restarts 50]     (needs wrk and nginx)
"""

import argparse
import asyncio
import json
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from tests.bench import subscribe
from tests.support.deployment import Deployment

from .common import KEYS, Callers, Verdict, database_server, slowest

CALLERS = 5_000
CONNECTIONS = 200


def main() -> None:
    """Load a site in three ways."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.load")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--slow", type=int, default=500, help="slow connections")
    parser.add_argument("--restarts", type=int, default=50, help="of each kind")
    options = parser.parse_args()
    verdict = Verdict()
    with database_server() as (server, folder):
        site = Deployment(server.create_database("load"), folder)
        site.flask("db", "upgrade")
        callers = folder / "callers"
        callers.write_text("".join(map(caller, range(CALLERS), [site] * CALLERS)))
        with site.gunicorn(stdout=subprocess.DEVNULL) as gunicorn:
            mixed(site, gunicorn.pid, callers, options.seconds, verdict)
            with site.nginx():
                asyncio.run(slow_senders(site, callers, options.slow, verdict))
        restarts(site, options.restarts, verdict)
    verdict.end()


def caller(number: int, site: Deployment) -> str:
    """Return what a browser posts: a line of a cookie and a body."""
    endpoint = f"https://updates.push.services.mozilla.com/wpush/v2/{'x' * 140}/kept/{number}"
    body = json.dumps({"endpoint": endpoint, "expirationTime": None, "keys": KEYS})
    return f"{site.cookie(f'caller {number}')}\t{body}\n"


def wrk(url: str, connections: int, callers: Path, run: str, seconds: float) -> list[str]:
    """Return a wrk command line."""
    script = Path(subscribe.__file__).with_suffix(".lua")
    load = ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script)]
    return [*load, f"{url}/push/subscribe", "--", str(callers), run]


def result(output: str) -> tuple[float, float, int]:
    """Return requests a second, the 99th percentile in seconds, and the errors that wrk saw."""
    requests, _, p99, errors = output.rpartition("RESULT ")[2].split()
    return float(requests), float(p99) / 1_000, int(errors)


def memory(gunicorn: int) -> float:
    """Return what gunicorn's workers have to themselves, in MiB."""
    workers = psutil.Process(gunicorn).children()
    return sum(worker.memory_full_info().uss for worker in workers) / 2**20


def mixed(site: Deployment, gunicorn: int, callers: Path, seconds: int, verdict: Verdict) -> None:
    """Load the site itself with 200 connections, and watch the memory."""

    def load(run: str, seconds: float) -> tuple[float, float, int]:
        command = wrk(site.url, CONNECTIONS, callers, run, seconds)
        return result(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    load("mixed warm-up", max(15, seconds // 4))
    before = memory(gunicorn)
    requests, p99, errors = load("mixed", seconds)
    growth = memory(gunicorn) / before
    what = f"{CONNECTIONS} connections, {seconds} s, 90 % repeats, 8 % new, 2 % wrong"
    verdict.promise(f"{what}: 5xx and broken, at {requests:,.0f} requests/s", errors, errors == 0)
    verdict.promise(f"{what}: p99, seconds", f"{p99:.3f}", p99 < 1)
    verdict.promise(
        f"{what}: memory of the workers, after to before ({before:.0f} MiB)", f"{growth:.3f}", growth < 1.05
    )


async def slow_senders(site: Deployment, callers: Path, number: int, verdict: Verdict) -> None:
    """Load the site through nginx while others send a byte at a time."""
    stop = asyncio.Event()
    sent = 0

    async def send(position: int) -> None:
        nonlocal sent
        _, writer = await asyncio.open_connection("127.0.0.1", site.tls_port, ssl=site.context())
        head = (
            f"POST /push/subscribe HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {site.cookie('slow')}\r\n"
            "Content-Type: application/json\r\nContent-Length: 9000\r\n"
        )
        slowly = (head if position % 2 else "x" * 9_000).encode()
        if position % 2 == 0:
            writer.write(f"{head}\r\n".encode())
        for byte in slowly:
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
        *wrk(site.tls_url, 32, callers, "repeats", 15), stdout=subprocess.PIPE
    )
    output, _ = await load.communicate()
    still = sum(not one.done() for one in slow)
    stop.set()
    await asyncio.gather(*slow)
    requests, p99, errors = result(output.decode())
    what = f"beside {still} connections that send a byte a second ({sent:,} bytes)"
    verdict.promise(f"{what}: errors, at {requests:,.0f} requests/s", errors, errors == 0 and still == number)
    verdict.promise(f"{what}: p99 of 32 others, seconds", f"{p99:.3f}", p99 < 1)


def restarts(site: Deployment, number: int, verdict: Verdict) -> None:
    """Reload and restart gunicorn on systemd's socket, under load through nginx."""
    with socket.create_server(("127.0.0.1", site.port), backlog=2048) as listener, site.nginx():
        gunicorn = site.start_on(listener)

        async def reload() -> None:
            gunicorn.send_signal(signal.SIGHUP)

        async def restart() -> None:
            nonlocal gunicorn
            gunicorn.terminate()
            await asyncio.to_thread(gunicorn.wait, 40)
            gunicorn = site.start_on(listener)

        try:
            asyncio.run(under_load(site, "SIGHUP", reload, number, verdict))
            asyncio.run(under_load(site, "SIGTERM and a new start", restart, number, verdict))
        finally:
            gunicorn.terminate()
            gunicorn.wait(40)


async def under_load(
    site: Deployment, what: str, disturb: Callable[[], Awaitable[None]], number: int, verdict: Verdict
) -> None:
    """Disturb the site again and again while browsers subscribe."""
    callers = Callers(site, tls=True, repeats=True)
    await callers.start(CONNECTIONS)
    await asyncio.sleep(3)
    for _ in range(number):
        await disturb()
        await asyncio.sleep(2.5)
    await callers.stop()
    statuses = callers.statuses()
    verdict.promise(
        f"{what}, {number} times: answers, slowest {slowest(callers.answers):.1f} s", dict(statuses),
        set(statuses) == {200},
    )  # fmt: skip


if __name__ == "__main__":
    main()
