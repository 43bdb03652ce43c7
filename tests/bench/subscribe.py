"""The speed of `POST /push/subscribe`, compared with two other implementations.

    python -m tests.bench.subscribe [--seconds 5] [--rounds 3] [--rows 1000 1000000]

Starts a durable PostgreSQL and three gunicorns of two workers each, and loads them with wrk in alternation:
pushapp; "bare psycopg", an upper bound: Flask on a psycopg pool, with one statement; "ORM", which reads and
then writes through the ORM's session. Figures are medians over the rounds.
"""

import argparse
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
from flask.sessions import SecureCookieSessionInterface

from pushapp import create_app
from pushapp.models import hash_endpoint
from pushapp.webpush.vapid import generate_key_pair
from tests.support.postgresql import PostgreSQL, free_port
from tests.support.subscriptions import subscription

CLIENTS = 500
CONNECTIONS = 16
IMPLEMENTATIONS = {
    "pushapp": "wsgi:app",
    "bare psycopg": "tests.bench.baselines:bare_psycopg()",
    "ORM": "tests.bench.baselines:orm()",
}
GUNICORN = ["-k", "gthread", "-w", "2", "--threads", "4", "--no-control-socket"]
TARGETS = {"repeats": {"bare psycopg": 0.75, "ORM": 4.5}, "new": {"bare psycopg": 0.7, "ORM": 3.0}}

SEED = """
INSERT INTO push_subscriptions (user_id, endpoint, endpoint_hash, keys_p256dh, keys_auth)
SELECT 'user ' || n / 2, endpoint, sha256(convert_to(endpoint, 'UTF8')), %s, %s
FROM generate_series(1, %s) n, LATERAL (
    SELECT 'https://updates.push.services.mozilla.com/wpush/v2/' || repeat(md5(n::text), 5) AS endpoint
) e
"""


class Load(NamedTuple):
    """The result of a run of wrk."""

    requests: float  # a second
    p50: float  # milliseconds
    p99: float  # milliseconds


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.subscribe")
    parser.add_argument("--seconds", type=int, default=5, help="of load per run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 1_000_000])
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("missing: wrk (apt-get install wrk)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgreSQL(folder)
        try:
            medians = [measure(server, folder, rows, options) for rows in options.rows]
        finally:
            server.stop()
    if len(medians) > 1:
        few, many = (figures["pushapp", "repeats"].p50 for figures in (medians[0], medians[-1]))
        print(
            f"p50 of a repeat at {options.rows[-1]:,} rows / at {options.rows[0]:,}: {many / few:.2f} (target 1.15)"
        )


def measure(
    server: PostgreSQL, folder: Path, rows: int, options: argparse.Namespace
) -> dict[tuple[str, str], Load]:
    """Fill a database with `rows` rows, load all implementations, and print and return the medians."""
    environment = {
        "DATABASE_URL": server.create_database(f"rows{rows}"),
        "SECRET_KEY": secrets.token_hex(),
        "FLASK_PUSH_VAPID_PRIVATE_KEY": generate_key_pair().private,
    }
    os.environ |= environment
    subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "db", "upgrade"], check=True, capture_output=True
    )
    clients = folder / "clients"
    clients.write_text(fill(environment["DATABASE_URL"], rows))
    runs: dict[tuple[str, str], list[Load]] = {}
    with serving() as ports:
        for number in range(options.rounds):
            for kind in TARGETS:
                for name, port in ports.items():
                    show_progress(f"{rows:,} rows, round {number + 1} of {options.rounds}: {name}, {kind}")
                    run = kind if kind == "repeats" else f"{name.replace(' ', '-')}{number}"
                    runs.setdefault((name, kind), []).append(load(port, clients, run, options.seconds))
                    delete_new(environment["DATABASE_URL"])
    show_progress("")
    medians = {key: Load(*map(statistics.median, zip(*loads, strict=True))) for key, loads in runs.items()}
    report(rows, medians)
    return medians


def fill(url: str, rows: int) -> str:
    """Insert the rows, and return the clients: lines of a cookie and a body."""
    app = create_app()
    signer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert signer is not None
    lines = []
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        keys = subscription()["keys"]
        cursor.execute(SEED, (keys["p256dh"], keys["auth"], rows - CLIENTS))
        for number in range(CLIENTS):
            endpoint = f"https://updates.push.services.mozilla.com/wpush/v2/{'x' * 140}/stored/{number}"
            keys = subscription()["keys"]
            cursor.execute(
                "INSERT INTO push_subscriptions (user_id, endpoint, endpoint_hash, keys_p256dh, keys_auth)"
                " VALUES (%s, %s, %s, %s, %s)",
                (f"caller {number}", endpoint, hash_endpoint(endpoint), keys["p256dh"], keys["auth"]),
            )
            body = json.dumps({"endpoint": endpoint, "expirationTime": None, "keys": keys})
            lines.append(f"access_token={signer.dumps({'user_id': f'caller {number}'})}\t{body}\n")
    delete_new(url)
    return "".join(lines)


def delete_new(url: str) -> None:
    """Delete the subscriptions of a run, so that the next run starts with the same table."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "DELETE FROM push_subscriptions WHERE user_id LIKE 'caller %' AND endpoint LIKE '%/new/%'"
        )
        connection.execute("VACUUM ANALYZE push_subscriptions")
        connection.execute("CHECKPOINT")


@contextmanager
def serving() -> Iterator[dict[str, int]]:
    """Serve all implementations; yield their ports."""
    ports = {name: free_port() for name in IMPLEMENTATIONS}
    servers = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gunicorn",
                *GUNICORN,
                "-b",
                f"127.0.0.1:{ports[name]}",
                "--log-level",
                "error",
                app,
            ]
        )
        for name, app in IMPLEMENTATIONS.items()
    ]
    try:
        for port in ports.values():
            wait_for(port)
        yield ports
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(30)


def wait_for(port: int) -> None:
    """Wait until a server responds on a port."""
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(port)


def load(port: int, clients: Path, run: str, seconds: int) -> Load:
    """Load an implementation for `seconds`, after a warm-up of a second."""
    script = Path(__file__).with_suffix(".lua")
    for duration, name in ((1, run if run == "repeats" else f"{run}warm"), (seconds, run)):
        wrk: list[str | Path] = ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{duration}s", "-s", script]
        url = f"http://127.0.0.1:{port}/push/subscribe"
        output = subprocess.run(
            [*wrk, url, "--", clients, name], check=True, capture_output=True, text=True
        ).stdout
    *figures, errors = output.rpartition("RESULT ")[2].split()
    if int(errors):
        sys.exit(f"{errors} requests failed:\n{output}")
    return Load(*map(float, figures))


def report(rows: int, medians: dict[tuple[str, str], Load]) -> None:
    """Print a table for each kind of request."""
    for kind, targets in TARGETS.items():
        print(f"\n{kind}, {rows:,} rows       requests/s    p50 ms    p99 ms    pushapp, ratio")
        pushapp = medians["pushapp", kind]
        for name in IMPLEMENTATIONS:
            figures = medians[name, kind]
            ratio = ""
            if name in targets:
                ratio = f"{pushapp.requests / figures.requests:.2f} × (target {targets[name]})"
            print(f"  {name:24} {figures.requests:8,.0f}  {figures.p50:8.2f}  {figures.p99:8.2f}    {ratio}")


def show_progress(text: str) -> None:
    """Print the progress, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
