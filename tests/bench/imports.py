"""The speed of `flask push import`: a file of many lines, and the same file again.

python -m tests.bench.imports [--lines 1000000]
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

from tests.bench.send import FLASK, Finished, finish, settings
from tests.reliability.common import database_server
from tests.support.subscriptions import subscription

KEYS = 1_000  # pairs; each is checked to be on the curve, whichever it is


def main() -> None:
    """Import a file twice, and print how long it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.imports")
    parser.add_argument("--lines", type=int, default=1_000_000)
    options = parser.parse_args()
    with database_server() as (server, folder):
        environment = settings(server.create_database("imports"), "https://push.example.com")
        path = write_lines(folder / "all.jsonl", options.lines)
        for name in ("new", "stored already"):
            started_at = time.monotonic()
            done = import_file(path, environment)
            seconds = time.monotonic() - started_at
            assert done.stdout.startswith(f"{options.lines} subscriptions stored"), done.stdout
            print(
                f"{options.lines:,} lines, {name}: {seconds / 60:.1f} minutes, {options.lines / seconds:,.0f} lines/s,"
                f" {done.cpu / options.lines * 1e6:.0f} µs of CPU a line, peak {done.peak:.0f} MiB"
            )


def write_lines(path: Path, number: int) -> Path:
    """Write subscriptions, three for each user."""
    keys = [subscription()["keys"] for _ in range(KEYS)]
    with path.open("w") as file:
        for position in range(number):
            endpoint = f"https://updates.push.services.mozilla.com/wpush/v2/{'x' * 150}{position}"
            line = {"user_id": f"user {position // 3}", "endpoint": endpoint, "keys": keys[position % KEYS]}
            file.write(json.dumps(line) + "\n")
    return path


def import_file(path: Path, environment: dict[str, str]) -> Finished:
    """Run the command."""
    return finish(
        subprocess.Popen(
            [*FLASK, "push", "import", str(path)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
