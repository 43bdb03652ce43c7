"""`/metrics`, in processes of their own: prometheus_client decides when it is imported who shares what."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from flask import Flask

from tests.conftest import SETTINGS, migrate
from tests.support.deployment import PROGRAMS, ROOT, running, wait_for
from tests.support.postgresql import free_port
from tests.support.push_server import PushServer
from tests.support.subscriptions import subscription
from tests.test_readme import get


def test_they_are_off_unless_asked_for(make_app: Callable[..., Flask]) -> None:
    assert make_app().test_client().get("/metrics").status_code == 404


def test_they_count_what_all_workers_and_the_sender_did(migrated_postgresql: str, tmp_path: Path) -> None:
    push_server = PushServer()
    port = free_port()
    settings = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": migrated_postgresql,
        "SECRET_KEY": str(SETTINGS["SECRET_KEY"]),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
        "FLASK_PUSH_METRICS": "true",
        "FLASK_PUSH_TRUSTED_PUSH_SERVICES": f'["{push_server.origin}"]',
        "FLASK_PUSH_VAPID_PRIVATE_KEY": str(SETTINGS["PUSH_VAPID_PRIVATE_KEY"]),
        "FLASK_PUSH_VAPID_SUBJECT": str(SETTINGS["PUSH_VAPID_SUBJECT"]),
    }

    def push(*arguments: str) -> str:
        command = [str(PROGRAMS / "flask"), "--app", "wsgi", "push", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=settings, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    gunicorn = ["-w", "2", "--reuse-port", "--no-control-socket", "-b", f"127.0.0.1:{port}"]
    with running([str(PROGRAMS / "gunicorn"), "wsgi:app", *gunicorn], cwd=ROOT, env=settings) as application:
        wait_for(port, application)
        time.sleep(1)  # until both workers listen
        cookie = push("cookie", "measured")
        site = f"http://127.0.0.1:{port}"
        body = push_server.subscription()
        for _ in range(40):
            assert get(f"{site}/push/subscribe", body, Cookie=cookie)[0] == 200
        for _ in range(3):
            assert get(f"{site}/push/subscribe", subscription(keys=None), Cookie=cookie)[0] == 422
        push("send", "measured", "--title", "x")
        assert "pushapp_queue_subscriptions 1.0" in metrics(site)
        push("worker", "--drain")
        text = metrics(site)
    push_server.close()
    assert 'pushapp_requests_total{method="POST",route="/push/subscribe",status="200"} 40.0' in text
    assert 'pushapp_requests_total{method="POST",route="/push/subscribe",status="422"} 3.0' in text
    assert 'pushapp_sends_total{outcome="sent",push_service="127.0.0.1"} 1.0' in text
    assert 'pushapp_send_duration_seconds_count{push_service="127.0.0.1"} 1.0' in text
    assert "pushapp_queue_subscriptions 0.0" in text
    assert "pushapp_queue_age_seconds 0.0" in text


def metrics(site: str) -> str:
    with urllib.request.urlopen(f"{site}/metrics", timeout=10) as response:
        return str(response.read().decode())


def test_hosts_that_anybody_may_bring_share_a_label(tmp_path: Path) -> None:
    migrate(f"sqlite:///{tmp_path}/x.db", tmp_path)
    program = """
import os
from pushapp import create_app
from pushapp.webpush.responses import SENT
app = create_app(instance_path=os.getcwd())
observe = app.extensions["push_observer"]
for origin in ("https://fcm.googleapis.com", "https://a.evil.net", "https://b.evil.net", "https://par02.notify.windows.com"):
    observe(origin, SENT, 0.1)
print(app.test_client().get("/metrics").text)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "FLASK_PUSH_METRICS": "1",
             "DATABASE_URL": f"sqlite:///{tmp_path}/x.db"},
    )  # fmt: skip
    assert 'pushapp_sends_total{outcome="sent",push_service="other"} 2.0' in done.stdout
    assert 'push_service="fcm.googleapis.com"' in done.stdout
    assert 'push_service="notify.windows.com"' in done.stdout
    assert "evil" not in done.stdout
