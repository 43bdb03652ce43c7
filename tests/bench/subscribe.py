"""How fast `POST /push/subscribe` is, beside two other ways to do it.

    python -m tests.bench.subscribe [--seconds 5] [--rounds 3] [--rows 1000 1000000]

Starts a durable PostgreSQL and three gunicorns of two workers each, and loads one after the other with
wrk, in turns: pushapp; `limit`, Flask on a bare psycopg pool with one statement; `orm`, reading and then
writing through the ORM's session. Figures are medians over the rounds.
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

from pushapp import create_app
from pushapp.webpush.vapid import generate_key_pair
from tests.support.postgresql import PostgreSQL, free_port
from tests.support.subscriptions import subscription

CALLERS = 500
CONNECTIONS = 16
CONTENDERS = {
    "pushapp": "wsgi:app",
    "limit": "tests.bench.baselines:limit()",
    "orm": "tests.bench.baselines:orm()",
}
GUNICORN = ["-k", "gthread", "-w", "2", "--threads", "4", "--no-control-socket"]
AIMS = {"repeats": {"limit": 0.9, "orm": 4.0}, "new": {"limit": 0.8, "orm": 3.0}}

SEED = """
INSERT INTO push_subscriptions (user_id, endpoint, keys_p256dh, keys_auth)
SELECT 'user ' || n / 2, 'https://updates.push.services.mozilla.com/wpush/v2/' || repeat(md5(n::text), 5), %s, %s
FROM generate_series(1, %s) n
"""


class Load(NamedTuple):
    """What wrk saw of one run."""

    requests: float  # a second
    p50: float  # milliseconds
    p99: float  # milliseconds


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.subscribe")
    parser.add_argument("--seconds", type=int, default=5, help="of load, a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 1_000_000])
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk makes the load: install it (apt-get install wrk)")
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
            f"p50 of a repeat at {options.rows[-1]:,} rows / at {options.rows[0]:,}: {many / few:.2f} (aim 1.15)"
        )


def measure(
    server: PostgreSQL, folder: Path, rows: int, options: argparse.Namespace
) -> dict[tuple[str, str], Load]:
    """Fill a database with `rows` rows, load all contenders in turns, and print and return the medians."""
    environment = {
        "DATABASE_URL": server.create_database(f"rows{rows}"),
        "SECRET_KEY": secrets.token_hex(),
        "FLASK_PUSH_VAPID_PRIVATE_KEY": generate_key_pair().private,
    }
    os.environ |= environment
    subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "db", "upgrade"], check=True, capture_output=True
    )
    callers = folder / "callers"
    callers.write_text(fill(environment["DATABASE_URL"], rows))
    runs: dict[tuple[str, str], list[Load]] = {}
    with serving() as ports:
        for turn in range(options.rounds):
            for job in AIMS:
                for name, port in ports.items():
                    tell(f"{rows:,} rows, round {turn + 1} of {options.rounds}: {name}, {job}")
                    run = job if job == "repeats" else f"{name}{turn}"
                    runs.setdefault((name, job), []).append(load(port, callers, run, options.seconds))
                    tidy(environment["DATABASE_URL"])
    tell("")
    medians = {key: Load(*map(statistics.median, zip(*loads, strict=True))) for key, loads in runs.items()}
    report(rows, medians)
    return medians


def fill(url: str, rows: int) -> str:
    """Put the rows in, and return what the callers post: lines of a cookie and a body."""
    app = create_app()
    signer = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
    lines = []
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        keys = subscription()["keys"]
        cursor.execute(SEED, (keys["p256dh"], keys["auth"], rows - CALLERS))
        for number in range(CALLERS):
            endpoint = f"https://updates.push.services.mozilla.com/wpush/v2/{'x' * 140}/kept/{number}"
            keys = subscription()["keys"]
            cursor.execute(
                "INSERT INTO push_subscriptions (user_id, endpoint, keys_p256dh, keys_auth) VALUES (%s, %s, %s, %s)",
                (f"caller {number}", endpoint, keys["p256dh"], keys["auth"]),
            )
            body = json.dumps({"endpoint": endpoint, "expirationTime": None, "keys": keys})
            lines.append(f"access_token={signer.dumps({'user_id': f'caller {number}'})}\t{body}\n")
    tidy(url)
    return "".join(lines)


def tidy(url: str) -> None:
    """Forget what a run has added, so that the next one finds the same table."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "DELETE FROM push_subscriptions WHERE user_id LIKE 'caller %' AND endpoint LIKE '%/new/%'"
        )
        connection.execute("VACUUM ANALYZE push_subscriptions")
        connection.execute("CHECKPOINT")


@contextmanager
def serving() -> Iterator[dict[str, int]]:
    """Serve all contenders; yields their ports."""
    ports = {name: free_port() for name in CONTENDERS}
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
        for name, app in CONTENDERS.items()
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
    """Wait until something answers HTTP on a port."""
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(port)


def load(port: int, callers: Path, run: str, seconds: int) -> Load:
    """Load one contender for `seconds`, after a second to warm up."""
    script = Path(__file__).with_suffix(".lua")
    for duration, name in ((1, run if run == "repeats" else f"{run}warm"), (seconds, run)):
        wrk = ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{duration}s", "-s", script]
        url = f"http://127.0.0.1:{port}/push/subscribe"
        output = subprocess.run(
            [*wrk, url, "--", callers, name], check=True, capture_output=True, text=True
        ).stdout
    *figures, errors = output.rpartition("RESULT ")[2].split()
    if int(errors):
        sys.exit(f"{errors} requests failed:\n{output}")
    return Load(*map(float, figures))


def report(rows: int, medians: dict[tuple[str, str], Load]) -> None:
    """Print one table."""
    for job, aims in AIMS.items():
        print(f"\n{job}, {rows:,} rows       requests/s    p50 ms    p99 ms    pushapp is")
        ours = medians["pushapp", job]
        for name in CONTENDERS:
            one = medians[name, job]
            ratio = f"{ours.requests / one.requests:.2f} × (aim {aims[name]})" if name in aims else ""
            print(f"  {name:24} {one.requests:8,.0f}  {one.p50:8.2f}  {one.p99:8.2f}    {ratio}")


def tell(text: str) -> None:
    """Say on a terminal what is going on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
