"""The speed of sending, compared with other implementations, and the memory of a fan-out.

    python -m tests.bench.send [--subscriptions 50000] [--rounds 3] [--fan-out 1000000]

Starts PostgreSQL, and nginx as a push service that responds 201 over TLS; inserts subscriptions with real
keys; and sends a message to all of them in alternation: pushapp, a worker from the queue to the recorded
outcome, its start included; "bare loop", an upper bound: pushapp's encryption and libcurl, with a look at each
address, header and body; pywebpush with a reused session, and its async call; web-push on node, where both are
installed (NODE_PATH). Ratios are of the CPU a message; figures are medians over the rounds.
The fan-outs go to a push service over plain HTTP that responds at once.
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psycopg

from pushapp.webpush.vapid import generate_key_pair
from tests.support.deployment import NGINX, certificate
from tests.support.postgresql import PostgreSQL, free_port
from tests.support.subscriptions import subscription

TARGETS = {"bare loop": 0.8, "pywebpush": 3.5, "2 workers": 1.8}
SENDERS = Path(__file__).with_name("senders.py")


class Run(NamedTuple):
    """The result of one run of a sender."""

    rate: float  # messages a second
    cpu: float  # microseconds of CPU a message
    peak: float  # MiB


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.send")
    parser.add_argument("--subscriptions", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fan-out", type=int, default=1_000_000, help="subscriptions of the larger fan-out")
    options = parser.parse_args()
    if not NGINX:
        sys.exit("missing: nginx (apt-get install nginx-light)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgreSQL(folder)
        nginx, https, http = start_push_service(folder)
        try:
            compare(server, folder, https, options)
            fan_outs(server, http, options)
        finally:
            nginx.terminate()
            nginx.wait()
            server.stop()


def start_push_service(folder: Path) -> tuple["subprocess.Popen[bytes]", str, str]:
    """Start nginx; return it, and its origins with and without TLS."""
    tls, plain = free_port(), free_port()
    certificate(folder)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
        daemon off; pid {folder}/pid; worker_processes 2; error_log stderr crit; events {{ worker_connections 4096; }}
        http {{ access_log off; keepalive_requests 100000000; keepalive_time 1d; {paths}
            server {{ listen 127.0.0.1:{tls} ssl http2; listen 127.0.0.1:{plain}; client_body_buffer_size 16k;
                ssl_certificate {folder}/example.com.pem; ssl_certificate_key {folder}/example.com.key;
                location / {{ return 201; }} }} }}
    """)
    assert NGINX is not None
    nginx = subprocess.Popen([NGINX, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")])
    time.sleep(0.5)
    return nginx, f"https://127.0.0.1:{tls}", f"http://127.0.0.1:{plain}"


def compare(server: PostgreSQL, folder: Path, origin: str, options: argparse.Namespace) -> None:
    """Send to the same subscriptions with all senders in alternation, and print the medians."""
    environment = settings(server.create_database("compare"), origin)
    environment["SSL_CERT_FILE"] = str(folder / "example.com.pem")
    subscriptions = [
        subscription(endpoint=f"{origin}/wpush/v2/{secrets.token_hex(16)}")
        for _ in range(options.subscriptions)
    ]
    insert_subscriptions(environment["DATABASE_URL"], subscriptions)
    (folder / "subscriptions.json").write_text(json.dumps(subscriptions))
    senders: dict[str, Callable[[], Run]] = {
        "pushapp": lambda: worker(environment, options.subscriptions, 1),
        "2 workers": lambda: worker(environment, options.subscriptions, 2),
    }
    for name in ("bare loop", "pywebpush", "pywebpush async"):
        senders[name] = partial(sender, name, folder, environment)
    if has_node_web_push():
        senders["node web-push"] = lambda: sender("node", folder, environment)
    runs: dict[str, list[Run]] = {name: [] for name in senders}
    for number in range(options.rounds):
        for name, run in senders.items():
            print(f"\rround {number + 1}: {name:20}", end="", file=sys.stderr, flush=True)
            runs[name].append(run())
    report(
        options.subscriptions,
        {name: Run(*map(statistics.median, zip(*results, strict=True))) for name, results in runs.items()},
    )


def has_node_web_push() -> bool:
    """Return whether node and its web-push are installed."""
    command = ["node", "-e", "require('web-push')"]
    return (
        bool(shutil.which("node"))
        and not subprocess.run(command, check=False, capture_output=True).returncode
    )


def report(messages: int, medians: dict[str, Run]) -> None:
    """Print a table."""
    print(f"\n{messages:,} messages   messages/s   CPU µs each   peak MiB   messages of pushapp with its CPU")
    pushapp = medians["pushapp"]
    for name, median in medians.items():
        ratio = f"{median.cpu / pushapp.cpu:.2f} ×" if name not in ("pushapp", "2 workers") else ""
        if name == "2 workers":
            ratio = f"{median.rate / pushapp.rate:.2f} × the messages/s of 1"
        target = f" (target {TARGETS[name]})" if name in TARGETS else ""
        print(f"  {name:18} {median.rate:9,.0f} {median.cpu:13,.0f} {median.peak:10,.0f}   {ratio}{target}")


def fan_outs(server: PostgreSQL, origin: str, options: argparse.Namespace) -> None:
    """Print the peak memory of a worker for a small and a large fan-out."""
    peaks = []
    for number in (options.subscriptions, options.fan_out):
        environment = settings(server.create_database(f"fan_out_{number}"), origin)
        insert_subscriptions(
            environment["DATABASE_URL"], [subscription(endpoint=f"{origin}/wpush/v2/x")], number
        )
        run = worker(environment, number, 1)
        peaks.append(run.peak)
        print(f"fan-out to {number:9,}: {run.rate:7,.0f} messages/s, peak {run.peak:5,.0f} MiB")
    print(f"the larger takes {peaks[1] - peaks[0]:.0f} MiB more (target: at most 20)")


def settings(url: str, origin: str) -> dict[str, str]:
    """Return the environment of a site whose push service is at `origin`, its database migrated."""
    environment = {
        "PATH": os.environ["PATH"],
        "NODE_PATH": os.environ.get("NODE_PATH", ""),
        "DATABASE_URL": url,
        "SECRET_KEY": secrets.token_hex(),
        "FLASK_PUSH_VAPID_PRIVATE_KEY": generate_key_pair().private,
        "FLASK_PUSH_VAPID_SUBJECT": "mailto:webmaster@site.org",
        "FLASK_PUSH_TRUSTED_PUSH_SERVICES": f'["{origin}"]',
    }
    subprocess.run([*FLASK, "db", "upgrade"], env=environment, check=True, capture_output=True)
    return environment


FLASK = [sys.executable, "-m", "flask", "--app", "wsgi"]


def insert_subscriptions(url: str, subscriptions: list[dict[str, object]], repeat: int = 1) -> None:
    """Insert subscriptions, each `repeat` times for as many users."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for number, one_subscription in enumerate(subscriptions):
            endpoint, keys = one_subscription["endpoint"], one_subscription["keys"]
            assert isinstance(keys, dict)
            cursor.execute(
                "INSERT INTO push_subscriptions (user_id, endpoint, endpoint_hash, keys_p256dh, keys_auth)"
                " SELECT 'user ' || %s + n, endpoint, sha256(convert_to(endpoint, 'UTF8')), %s, %s"
                " FROM generate_series(1, %s) n, LATERAL (SELECT %s || n AS endpoint) e",
                (number, keys["p256dh"], keys["auth"], repeat, endpoint),
            )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE push_subscriptions")


def worker(environment: dict[str, str], number: int, workers: int) -> Run:
    """Queue a message to everyone, and time pushapp's workers until all outcomes are recorded."""
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(
            "TRUNCATE push_messages, push_batches, push_outcomes, push_queue.procrastinate_jobs CASCADE"
        )
        command = ["push", "send", "--everyone", "--title", "Hello", "--body", "x" * 200]
        subprocess.run([*FLASK, *command], env=environment, check=True, capture_output=True)
        running = [start_worker(environment)]
        fanned_out = "SELECT count(*) FROM push_batches WHERE size > 0"
        while connection.execute(fanned_out).fetchone() == (0,):  # or the others would find nothing due
            time.sleep(0.01)
        running += [start_worker(environment) for _ in range(workers - 1)]
        finished = [finish(process) for process in running]
        sent = connection.execute(
            "SELECT sum(count)::int FROM push_outcomes WHERE outcome = 'sent'"
        ).fetchone()
    log = "".join(process.stderr for process in finished)
    assert sent == (number,), (sent, log[:1_500])
    cpu = sum(process.cpu for process in finished)
    peak = max(process.peak for process in finished)
    return Run(number / sending_time(log), cpu / number * 1e6, peak)


class Finished(NamedTuple):
    """The output of a finished process, and its use of resources."""

    stdout: str
    stderr: str
    cpu: float  # seconds
    peak: float  # MiB


def start_worker(environment: dict[str, str]) -> "subprocess.Popen[str]":
    """Start a worker that exits when the queue is empty."""
    return subprocess.Popen(
        [*FLASK, "push", "worker", "--drain"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> Finished:
    """Wait for a process, and return its output and its use of resources."""
    peaks = [0.0]

    def watch() -> None:
        # The kernel's figure at the end includes this process, from between fork and exec.
        status = Path(f"/proc/{process.pid}/status")
        with contextlib.suppress(OSError):
            while peak := re.search(r"VmHWM:\s+(\d+)", status.read_text()):
                peaks.append(int(peak[1]) / 1024)
                time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stdout is not None
    assert process.stderr is not None
    stderr = process.stderr.read()
    stdout = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    watcher.join()
    assert process.returncode == 0, stderr[-2_000:]
    return Finished(stdout, stderr, usage.ru_utime + usage.ru_stime, max(peaks))


def sending_time(log: str) -> float:
    """Return the seconds from the start of the first batch to the end of the last, from the workers' log."""
    starts, ends = [], []
    for stamp, seconds in re.findall(r"^(\S+ \S+) INFO message .* in (\S+) s$", log, re.MULTILINE):
        end = time.mktime(time.strptime(stamp[:19], "%Y-%m-%d %H:%M:%S")) + int(stamp[20:]) / 1000
        ends.append(end)
        starts.append(end - float(seconds))
    return max(ends) - min(starts)


def sender(name: str, folder: Path, environment: dict[str, str]) -> Run:
    """Run another sender, which prints its number of messages, seconds and CPU seconds."""
    if name == "node":
        command = ["node", str(SENDERS.with_suffix(".js")), str(folder / "subscriptions.json")]
    else:
        command = [sys.executable, "-m", "tests.bench.senders", name, str(folder / "subscriptions.json")]
    finished = finish(
        subprocess.Popen(
            command,
            env=environment | {"NODE_TLS_REJECT_UNAUTHORIZED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    number, seconds, cpu = map(float, finished.stdout.split())
    return Run(number / seconds, cpu / number * 1e6, finished.peak)


if __name__ == "__main__":
    main()
