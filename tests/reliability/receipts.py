"""Receipts of one message to everyone are recorded as fast as those of many messages, each once.

python -m tests.reliability.receipts [--receipts 1000000] [--seconds 60]     (needs wrk)
"""

import argparse
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psycopg

from pushapp.sending.receipts import SHARDS
from pushapp.webpush.receipts import Tokens
from tests.reliability.common import Report, database_server, require_programs, scalar
from tests.support.deployment import SECRET, Deployment

CONNECTIONS = 64
THREADS = 2
MAX_RATE = 5_000  # requests a second for which there are tokens
MESSAGES = 1_000
RUNS = (("warm-up", MESSAGES), ("of many messages", MESSAGES), ("of one message", 1))
MIN_RATIO = 0.7
STORED = 10_000_000  # the first id of the subscriptions whose receipts are stored already


class Load(NamedTuple):
    """The result of a run of wrk."""

    accepted: int
    rate: float  # requests a second
    p99: float  # seconds
    errors: int


def main() -> None:
    """Post receipts of one message that has many already, and of many messages."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.receipts")
    parser.add_argument("--receipts", type=int, default=1_000_000, help="stored before")
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    require_programs("wrk")
    report = Report()
    with database_server() as (server, folder):
        site = Deployment(server.create_database("receipts"), folder, FLASK_PUSH_RECEIPTS="true")
        site.flask("db", "upgrade")
        url = site.environment["DATABASE_URL"]
        fill(url, options.receipts)
        number = MAX_RATE * options.seconds
        rates = []
        with site.gunicorn(stdout=subprocess.DEVNULL):
            for position, (name, messages) in enumerate(RUNS):
                first = position * number
                pairs = ((1 + place % messages, first + place) for place in range(number))
                before = count_all(url)
                load = post(site.url, write_tokens(folder / "tokens", pairs), options.seconds)
                check(name, load, count_all(url) - before, report)
                rates.append(load.rate)
        check_rows(url, report)
    ratio = rates[2] / rates[1]
    what = f"rate for one message with {options.receipts:,} receipts, to that for {MESSAGES:,} messages"
    report.guarantee(f"{what} (limit {MIN_RATIO})", f"{ratio:.2f}", ratio >= MIN_RATIO)
    report.finish()


def fill(url: str, receipts: int) -> None:
    """Insert the messages, and receipts of the first one."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO push_messages (message, recipients, created_at)"
            ' SELECT \'{"title": "Hello"}\', %s, now() FROM generate_series(1, %s)',
            (receipts, MESSAGES),
        )
        connection.execute(
            "INSERT INTO push_receipts (message_id, subscription_id, event)"
            " SELECT 1, %s + n, 'shown' FROM generate_series(1, %s) n",
            (STORED, receipts),
        )
        connection.execute(
            "INSERT INTO push_receipt_counts (message_id, event, shard, count)"
            " SELECT 1, 'shown', subscription_id %% %s, count(*) FROM push_receipts GROUP BY 3",
            (SHARDS,),
        )
        connection.execute("VACUUM ANALYZE")


def write_tokens(path: Path, pairs: Iterable[tuple[int, int]]) -> Path:
    """Write the tokens of messages and subscriptions, one a line."""
    tokens = Tokens([SECRET])
    path.write_text("".join(f"{tokens.create(*pair)}\n" for pair in pairs))
    return path


def post(url: str, tokens: Path, seconds: int) -> Load:
    """Post a receipt for each token, as many as possible."""
    script = Path(__file__).with_suffix(".lua")
    command = [
        "wrk",
        f"-t{THREADS}",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
    ]
    command += [f"{url}/push/receipts", "--", str(tokens), str(THREADS)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    accepted, rate, p99, errors = output.rpartition("RESULT ")[2].split()
    return Load(int(accepted), float(rate), float(p99), int(errors))


def count_all(url: str) -> int:
    """Return the sum of all counts."""
    return int(scalar(url, "SELECT coalesce(sum(count), 0) FROM push_receipt_counts"))


def check(name: str, load: Load, counted: int, report: Report) -> None:
    """Compare the receipts that were acknowledged with those that are counted."""
    report.figure(
        f"{name}: receipts a second, and the 99th percentile, seconds", f"{load.rate:,.0f}, {load.p99:.3f}"
    )
    report.guarantee(
        f"{name}: other responses than 204, and broken connections", load.errors, load.errors == 0
    )
    # What was in flight at the end of the run may be recorded; wrk has up to two requests a connection.
    is_exact = load.accepted <= counted <= load.accepted + 2 * CONNECTIONS
    report.guarantee(
        f"{name}: counted, of {load.accepted:,} that were acknowledged", f"{counted:,}", is_exact
    )


def check_rows(url: str, report: Report) -> None:
    """Compare the counts with the rows."""
    rows = scalar(url, "SELECT count(*) FROM push_receipts")
    report.guarantee(
        "counts without a row, or rows without a count", count_all(url) - rows, count_all(url) == rows
    )


if __name__ == "__main__":
    main()
