"""The pages: their commands are run as they stand there, their tables are compared with the code."""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import click
import psutil
import pytest
from flask import Flask

from pushapp.config import SETTINGS
from pushapp.database import engine
from tests.conftest import signed_in
from tests.support.deployment import NGINX, PROGRAMS, README, ROOT, Deployment, block, running, wait_for
from tests.support.http import fetch
from tests.support.postgresql import free_port
from tests.support.subscriptions import subscription
from tests.support.waiting import wait_until

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
PAGES = [
    path for path in ROOT.rglob("*.md") if ".venv" not in path.parts and ".pytest_cache" not in path.parts
]


def test_the_demo_command(tmp_path: Path) -> None:
    for folder in ("pushapp", "migrations"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "wsgi.py", tmp_path)
    port = free_port()
    (line,) = [line for line in README.splitlines() if line.endswith("demo") and line.startswith("python3")]
    command = line.rpartition("&& ")[2].replace(".venv/bin/flask", str(PROGRAMS / "flask"))
    environment = {"PATH": os.environ["PATH"]}
    with running([*command.split(), "--port", str(port)], cwd=tmp_path, env=environment) as demo:
        wait_for(port, demo)
        site = f"http://127.0.0.1:{port}"
        status, page = fetch(site)
        assert (status, b"Your devices" in page) == (200, True)
        assert fetch(f"{site}/demo/sign-in", {"name": "alice"}) == (200, {"name": "alice"})
        assert fetch(f"{site}/readyz")[0] == 200
        assert fetch(site, Host="evil.example")[0] == 400
    assert (tmp_path / "instance" / "pushapp.db").exists()


@needs_nginx
def test_gunicorn_behind_nginx(migrated_postgresql: str, tmp_path: Path) -> None:
    site = Deployment(migrated_postgresql, tmp_path)
    with site.gunicorn(), site.nginx():
        context, url = site.context(), site.tls_url
        origin = {"Cookie": site.cookie("the user behind nginx"), "Origin": url}
        stored = fetch(f"{url}/push/subscribe", subscription(), context, **origin)
        assert stored == (200, {"ok": True, "count": 1})
        assert fetch(f"{url}/push/subscriptions", None, context, **origin)[1]["count"] == 1
        cross_site = origin | {"Origin": "https://evil.example"}
        assert fetch(f"{url}/push/subscribe", {}, context, **cross_site)[0] == 403
        assert fetch(f"{url}/push/subscribe", {"x": "x" * 20_000}, context, **origin)[0] == 413
        assert fetch(f"{url}/metrics", None, context)[0] == 403
        idle = [socket.create_connection(("127.0.0.1", site.tls_port)) for _ in range(40)]
        assert fetch(f"{url}/readyz", None, context)[0] == 200
        for connection in idle:
            connection.close()


@needs_nginx
def test_nginx_closes_an_idle_connection_before_gunicorn_does(tmp_path: Path) -> None:
    site = Deployment(f"sqlite:///{tmp_path}/pushapp.db", tmp_path)

    def connections(status: str) -> set[tuple[int, int]]:
        found = psutil.net_connections("tcp4")
        return {
            (each.laddr.port, each.raddr.port)
            for each in found
            if each.status == status and each.laddr and each.raddr  # those of other states may be empty
        }

    with site.gunicorn(), site.nginx():
        assert fetch(f"{site.tls_url}/healthz", None, site.context())[0] == 200
        established = connections(psutil.CONN_ESTABLISHED)
        ((nginx_port, _),) = {pair for pair in established if pair[1] == site.port}
        by_nginx, by_gunicorn = (nginx_port, site.port), (site.port, nginx_port)
        # TIME_WAIT is the state of the side that closed first.
        wait_until(lambda: {by_nginx, by_gunicorn} & connections(psutil.CONN_TIME_WAIT), 10)
        assert by_gunicorn not in connections(psutil.CONN_TIME_WAIT)


def test_the_readme_has_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| (`PUSH_.*?) \| (.*?) \|", README, re.MULTILINE)
    table = {name: default for names, default in rows for name in re.findall(r"PUSH_\w+", names)}
    assert set(table) == set(SETTINGS)
    for name, setting in SETTINGS.items():
        if setting.default is not None:
            assert table[name].strip("`") == json.dumps(setting.default).strip('"')


def test_the_readme_has_every_route(app: Flask) -> None:
    documented = re.findall(r"`((?:GET|POST|DELETE|PUT|PATCH) /[^` ]*)`", README)
    table = {re.sub("<.*>", "<id>", route) for route in documented}
    routes = {
        f"{method} {re.sub('<.*>', '<id>', rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "pushapp.dashboard.asset"
    }
    assert table == routes


def test_the_readme_has_every_command(app: Flask) -> None:
    push = app.cli.commands["push"]
    assert isinstance(push, click.Group)
    commands = {f"push {name}" for name in push.commands} | {"demo"}
    rows = re.findall(r"^\| (`flask .*?) \|", README, re.MULTILINE)
    table = {command for row in rows for command in re.findall(r"`flask ((?:push )?[\w-]+)", row)}
    assert table == commands


def test_the_readme_has_at_most_200_lines() -> None:
    assert len(README.splitlines()) <= 200


def test_links_between_pages_lead_to_files() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), (page, link)


def test_the_readmes_host_is_the_example_host() -> None:
    example = (ROOT / "tests" / "example_host.py").read_text()
    shown = block("python", "app = Flask(__name__)\napp.config")
    for line in shown.splitlines():
        assert line.strip() in example


def test_the_python_of_the_readme_sends(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    names = {"user": SimpleNamespace(id="alice"), "tomorrow_at_nine": datetime.now(UTC) + timedelta(days=1)}
    with app.app_context():
        exec(block("python", "from pushapp import EVERYONE"), names)  # noqa: S102
        with engine().connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM push_messages").scalar() == 2


def curl_bodies() -> list[object]:
    return [json.loads(text) for text in re.findall(r"--json '(.*?)'$", block("sh", "curl"), re.M | re.S)]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # where sending is only queued
def test_the_requests_of_the_readme_succeed(make_app: Callable[..., Flask]) -> None:
    app = make_app(PUSH_API_TOKENS=["token"])
    to_subscribe, to_send = curl_bodies()
    response = signed_in(app, "alice").post("/push/subscribe", json=to_subscribe)
    assert response.json == {"ok": True, "count": 1}
    headers = {"Authorization": "Bearer token"}
    assert app.test_client().post("/push/messages", json=to_send, headers=headers).status_code == 202
