"""`/metrics`, in separate processes: prometheus_client reads its settings when it is imported."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from flask import Flask

from tests.conftest import migrate
from tests.support.deployment import ROOT, Deployment
from tests.support.http import fetch
from tests.support.postgresql import PostgreSQL
from tests.support.push_server import PushServer
from tests.support.subscriptions import subscription

PAGE = (ROOT / "pushapp" / "README.md").read_text()


def test_they_are_disabled_by_default(make_app: Callable[..., Flask]) -> None:
    assert make_app().test_client().get("/metrics").status_code == 404


def test_they_sum_all_processes_of_gunicorn_and_the_worker(
    server: PostgreSQL, tmp_path: Path, push_server: PushServer
) -> None:
    url = server.create_database("metrics")
    migrate(url, tmp_path)
    site = Deployment(
        url,
        tmp_path,
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "metrics"),
        FLASK_PUSH_METRICS="true",
        FLASK_PUSH_API_TOKENS='["token"]',
        FLASK_PUSH_TRUSTED_PUSH_SERVICES=f'["{push_server.origin}"]',
    )
    with site.gunicorn():
        cookie = site.cookie("measured")
        body = push_server.subscription()
        for _ in range(40):
            assert fetch(f"{site.url}/push/subscribe", body, Cookie=cookie)[0] == 200
        for _ in range(3):
            assert fetch(f"{site.url}/push/subscribe", subscription(keys=None), Cookie=cookie)[0] == 422
        message = {"to": {"user_id": "measured"}, "notification": {"title": "x"}}
        assert fetch(f"{site.url}/push/messages", message, Authorization="Bearer token")[0] == 202
        assert "pushapp_queue_subscriptions 1.0" in metrics(site)
        site.flask("push", "worker", "--drain")
        site.flask("push", "prune")
        text = metrics(site)
    assert 'pushapp_requests_total{method="POST",route="/push/subscribe",status="200"} 40.0' in text
    assert 'pushapp_requests_total{method="POST",route="/push/subscribe",status="422"} 3.0' in text
    assert 'pushapp_sends_total{outcome="sent",push_service="127.0.0.1"} 1.0' in text
    assert 'pushapp_send_duration_seconds_count{push_service="127.0.0.1"} 1.0' in text
    assert "pushapp_queue_subscriptions 0.0" in text
    assert "pushapp_queue_age_seconds 0.0" in text
    assert "pushapp_workers 0.0" in text
    assert 'pushapp_subscriptions{push_service="127.0.0.1"} 1.0' in text


def test_the_page_has_a_table_of_all_metrics() -> None:
    table = re.findall(r"^\| `(pushapp_\w+)` \| (\w+) \| (.*?) \|", PAGE, re.MULTILINE)
    source = (ROOT / "pushapp" / "web" / "metrics.py").read_text()
    for name, kind, labels in table:
        assert f'"{name.removesuffix("_total")}"' in source
        assert name.endswith("_total") == (kind == "counter")
        assert all(f'"{label}"' in source for label in re.findall(r"`(\w+)`", labels))
    assert len(table) == len(re.findall(r'"pushapp_(?!metrics")\w+"', source))
    for name in re.findall(r"pushapp_\w+", PAGE[PAGE.index("```promql") :]):
        assert name in {row[0] for row in table}


def metrics(site: Deployment) -> str:
    status, text = fetch(f"{site.url}/metrics")
    assert status == 200
    return str(text.decode())


def run(folder: Path, program: str) -> str:
    """Run a program with an application on SQLite, and return what it prints."""
    url = f"sqlite:///{folder}/x.db"
    migrate(url, folder)
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "FLASK_PUSH_METRICS": "1", "DATABASE_URL": url,
    }  # fmt: skip
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_unknown_hosts_share_one_label(tmp_path: Path) -> None:
    text = run(tmp_path, """
import os
from pushapp import create_app
from pushapp.webpush.responses import SENT
app = create_app(instance_path=os.getcwd())
observe = app.extensions["push_observer"]
for origin in ("https://fcm.googleapis.com", "https://a.unknown.net", "https://b.unknown.net", "https://par02.notify.windows.com"):
    observe(origin, SENT, 0.1)
print(app.test_client().get("/metrics").text)
""")  # fmt: skip
    assert 'pushapp_sends_total{outcome="sent",push_service="other"} 2.0' in text
    assert 'push_service="fcm.googleapis.com"' in text
    assert 'push_service="notify.windows.com"' in text
    assert "unknown" not in text


def test_a_long_queue_is_not_counted_to_its_end(tmp_path: Path) -> None:
    text = run(tmp_path, """
import os
from datetime import UTC, datetime, timedelta
from pushapp import EVERYONE, Message, create_app, send
from pushapp.database import engine
from pushapp.diagnostics import queue
from pushapp.sending.batches import add_batches
queue.MAX_BATCHES = 2
app = create_app(instance_path=os.getcwd())
with app.app_context():
    message_id = send(Message(title="x"), to=EVERYONE)
    with engine().begin() as connection:
        for minutes in (10, 20, 30, -10):
            due_at = datetime.now(UTC) - timedelta(minutes=minutes)
            row = {"first_id": 1, "last_id": 9, "size": minutes, "subscription_ids": None}
            add_batches(connection, message_id, due_at, [row])
print(app.test_client().get("/metrics").text)
""")  # fmt: skip
    assert "pushapp_queue_batches 2.0" in text
    assert "pushapp_queue_subscriptions 50.0" in text
    assert re.search(r"pushapp_queue_age_seconds 180\d", text)


def test_they_are_left_out_while_the_database_is_unavailable(tmp_path: Path) -> None:
    text = run(tmp_path, """
import os
from pushapp import create_app
app = create_app({"SQLALCHEMY_DATABASE_URI": "sqlite:////nowhere/x.db"}, instance_path=os.getcwd())
for path in ("/push/vapid-public-key", "/metrics", "/metrics"):
    response = app.test_client().get(path)
    print(response.status_code, response.text)
""")  # fmt: skip
    assert text.count("200 ") == 3
    assert text.count('route="/push/vapid-public-key",status="200"} 1.0') == 2
    assert "pushapp_queue" not in text
