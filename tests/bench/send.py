"""How fast messages are sent, beside other ways to do it, and how much memory a fan-out takes.

    python -m tests.bench.send [--subscriptions 20000] [--rounds 3] [--fan-out 1000000]

Starts PostgreSQL and nginx, which answers 201 over TLS as a push service does; puts in subscriptions with
real keys; and sends one message to all of them, in turns: `pushapp`, a worker of ours from the queue to the
recorded outcome; `limit`, the bare loop of http-ece and aiohttp; pywebpush with a kept session, and its
async call; web-push on node, where both are installed (NODE_PATH). Figures are medians over the rounds.
The fan-outs go to a push service over plain HTTP that answers at once.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psycopg

from pushapp.webpush.vapid import generate_key_pair
from tests.support.deployment import NGINX, certificate
from tests.support.postgresql import PostgreSQL, free_port
from tests.support.subscriptions import subscription

AIMS = {"limit": 0.85, "pywebpush": 3.0, "2 workers": 1.8}
SENDERS = Path(__file__).with_name("senders.py")


class Run(NamedTuple):
    """One way, once."""

    rate: float  # messages a second
    cpu: float  # microseconds of CPU a message
    peak: float  # MiB


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.send")
    parser.add_argument("--subscriptions", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fan-out", type=int, default=1_000_000, help="subscriptions of the larger fan-out")
    options = parser.parse_args()
    if not NGINX:
        sys.exit("nginx plays the push service: install it (apt-get install nginx-light)")
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
    """Start nginx; return it, and its origins with TLS and without."""
    tls, plain = free_port(), free_port()
    certificate(folder)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
        daemon off; pid {folder}/pid; worker_processes 2; error_log stderr crit; events {{ worker_connections 4096; }}
        http {{ access_log off; keepalive_requests 100000000; keepalive_time 1d; {paths}
            server {{ listen 127.0.0.1:{tls} ssl; listen 127.0.0.1:{plain}; client_body_buffer_size 16k;
                ssl_certificate {folder}/example.com.pem; ssl_certificate_key {folder}/example.com.key;
                location / {{ return 201; }} }} }}
    """)
    assert NGINX is not None
    nginx = subprocess.Popen([NGINX, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")])
    time.sleep(0.5)
    return nginx, f"https://127.0.0.1:{tls}", f"http://127.0.0.1:{plain}"


def compare(server: PostgreSQL, folder: Path, origin: str, options: argparse.Namespace) -> None:
    """Send to the same subscriptions in all ways, in turns, and print the medians."""
    environment = settings(server.create_database("compare"), origin)
    environment["SSL_CERT_FILE"] = str(folder / "example.com.pem")
    subscriptions = [
        subscription(endpoint=f"{origin}/wpush/v2/{secrets.token_hex(16)}")
        for _ in range(options.subscriptions)
    ]
    put_in(environment["DATABASE_URL"], subscriptions)
    (folder / "subscriptions.json").write_text(json.dumps(subscriptions))
    ways: dict[str, Callable[[], Run]] = {
        "pushapp": lambda: worker(environment, options.subscriptions, 1),
        "2 workers": lambda: worker(environment, options.subscriptions, 2),
    }
    for name in ("limit", "pywebpush", "pywebpush async"):
        ways[name] = lambda name=name: sender(name, folder, environment)  # type: ignore[misc]
    if (
        shutil.which("node")
        and not subprocess.run(["node", "-e", "require('web-push')"], capture_output=True).returncode
    ):
        ways["node web-push"] = lambda: sender("node", folder, environment)
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for turn in range(options.rounds):
        for name, run in ways.items():
            print(f"\rround {turn + 1}: {name:20}", end="", file=sys.stderr, flush=True)
            runs[name].append(run())
    medians = {name: Run(*map(statistics.median, zip(*found, strict=True))) for name, found in runs.items()}
    print(f"\n{options.subscriptions:,} messages   messages/s   CPU µs each   peak MiB   pushapp is")
    for name, one in medians.items():
        ours = medians["pushapp"].rate
        ratio = f"{ours / one.rate:.2f} ×" if name not in ("pushapp", "2 workers") else ""
        if name == "2 workers":
            ratio = f"2 workers are {one.rate / ours:.2f} × 1"
        aim = f" (aim {AIMS[name]})" if name in AIMS else ""
        print(f"  {name:18} {one.rate:9,.0f} {one.cpu:13,.0f} {one.peak:10,.0f}   {ratio}{aim}")


def fan_outs(server: PostgreSQL, origin: str, options: argparse.Namespace) -> None:
    """Print the peak memory of a worker for a small and a large fan-out."""
    peaks = []
    for number in (options.subscriptions, options.fan_out):
        environment = settings(server.create_database(f"fan_out_{number}"), origin)
        put_in(environment["DATABASE_URL"], [subscription(endpoint=f"{origin}/wpush/v2/x")], number)
        run = worker(environment, number, 1)
        peaks.append(run.peak)
        print(f"fan-out to {number:9,}: {run.rate:7,.0f} messages/s, peak {run.peak:5,.0f} MiB")
    print(f"the larger takes {peaks[1] - peaks[0]:.0f} MiB more (aim: at most 20)")


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


def put_in(url: str, subscriptions: list[dict[str, object]], repeat: int = 1) -> None:
    """Put subscriptions in; one of them `repeat` times, for as many users."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for number, one in enumerate(subscriptions):
            keys = one["keys"]
            assert isinstance(keys, dict)
            cursor.execute(
                "INSERT INTO push_subscriptions (user_id, endpoint, keys_p256dh, keys_auth)"
                " SELECT 'user ' || %s + n, %s || n, %s, %s FROM generate_series(1, %s) n",
                (number, one["endpoint"], keys["p256dh"], keys["auth"], repeat),
            )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE push_subscriptions")


def worker(environment: dict[str, str], number: int, workers: int) -> Run:
    """Queue a message to everyone, and time workers of ours until all outcomes are recorded."""
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("TRUNCATE push_messages, push_batches, push_outcomes, procrastinate_jobs CASCADE")
        command = ["push", "send", "--everyone", "--title", "Hello", "--body", "x" * 200]
        subprocess.run([*FLASK, *command], env=environment, check=True, capture_output=True)
        workers_running = [start_worker(environment)]
        first = "SELECT count(*) FROM push_batches WHERE size > 0"
        while connection.execute(first).fetchone() == (0,):  # until the first has cut the message
            time.sleep(0.01)
        workers_running += [start_worker(environment) for _ in range(workers - 1)]
        ended = [finish(one) for one in workers_running]
        sent = connection.execute(
            "SELECT sum(count)::int FROM push_outcomes WHERE outcome = 'sent'"
        ).fetchone()
    text = "".join(one.stderr for one in ended)
    assert sent == (number,), (sent, text[:1_500])
    cpu = sum(one.cpu - START_CPU for one in ended)
    return Run(number / working_time(text), cpu / number * 1e6, max(one.peak for one in ended))


class Ended(NamedTuple):
    """A process that has done its work."""

    stdout: str
    stderr: str
    cpu: float  # seconds
    peak: float  # MiB


def start_worker(environment: dict[str, str]) -> "subprocess.Popen[str]":
    """Start a worker that stops when nothing is due."""
    return subprocess.Popen(
        [*FLASK, "push", "worker", "--drain"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> Ended:
    """Wait for a process, and return what it wrote and used."""
    peaks = [0.0]

    def watch() -> None:
        # What the kernel says at the end counts this process too, from between fork and exec.
        with contextlib.suppress(OSError, TypeError):
            while True:
                status = Path(f"/proc/{process.pid}/status").read_text()
                peaks.append(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024)  # type: ignore[index]
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
    return Ended(stdout, stderr, usage.ru_utime + usage.ru_stime, max(peaks))


def working_time(text: str) -> float:
    """Return the seconds from the first slice's begin to the last one's end, from the workers' log."""
    ends, begins = [], []
    for stamp, seconds in re.findall(r"^(\S+ \S+) INFO message .* in (\S+) s$", text, re.MULTILINE):
        end = time.mktime(time.strptime(stamp[:19], "%Y-%m-%d %H:%M:%S")) + int(stamp[20:]) / 1000
        ends.append(end)
        begins.append(end - float(seconds))
    return max(ends) - min(begins)


def sender(name: str, folder: Path, environment: dict[str, str]) -> Run:
    """Time another way, which prints the seconds it took."""
    if name == "node":
        command = ["node", str(SENDERS.with_suffix(".js")), str(folder / "subscriptions.json")]
    else:
        command = [sys.executable, "-m", "tests.bench.senders", name, str(folder / "subscriptions.json")]
    ended = finish(
        subprocess.Popen(
            command,
            env=environment | {"NODE_TLS_REJECT_UNAUTHORIZED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    number, seconds, cpu = map(float, ended.stdout.split())
    return Run(number / seconds, cpu / number * 1e6, ended.peak)


def measure_start() -> float:
    """Return the CPU seconds that a worker takes to start, which are not the messages'."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*FLASK, "push", "worker", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


START_CPU = measure_start() if __name__ == "__main__" else 0.0

if __name__ == "__main__":
    main()
