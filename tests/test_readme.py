"""What the README promises: its commands are run as they stand there, its tables are compared with the code."""

import json
import os
import re
import shutil
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from flask import Flask

from pushapp.config import PUSH_DEFAULTS
from pushapp.extensions import db
from tests.conftest import signed_in
from tests.reliability.common import wait_until
from tests.support.deployment import NGINX, PROGRAMS, README, ROOT, Deployment, block, running, wait_for
from tests.support.postgresql import free_port
from tests.support.subscriptions import subscription


def get(
    url: str, body: object = None, context: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | names)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            text = response.read()
            return response.status, json.loads(text) if "json" in response.headers["Content-Type"] else text
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_demo(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pushapp", tmp_path / "pushapp")
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    shutil.copy(ROOT / "wsgi.py", tmp_path)
    port = free_port()
    (line,) = [line for line in README.splitlines() if line.endswith("demo") and line.startswith("python3")]
    command = line.rpartition("&& ")[2]
    arguments = command.replace(".venv/bin/flask", str(PROGRAMS / "flask")).split()
    with running([*arguments, "--port", str(port)], cwd=tmp_path, env={"PATH": os.environ["PATH"]}) as demo:
        wait_for(port, demo)
        site = f"http://127.0.0.1:{port}"
        status, page = get(site)
        assert (status, b"Your devices" in page) == (200, True)
        assert get(f"{site}/demo/sign-in", {"name": "alice"}) == (200, {"name": "alice"})
        assert get(f"{site}/readyz")[0] == 200
        assert get(site, Host="evil.example")[0] == 400
    assert (tmp_path / "instance" / "pushapp.db").exists()


@pytest.mark.skipif(NGINX is None, reason="nginx is not on this machine")
def test_gunicorn_behind_nginx(migrated_postgresql: str, tmp_path: Path) -> None:
    site = Deployment(migrated_postgresql, tmp_path)
    with site.gunicorn(), site.nginx():
        cookie = site.flask("push", "cookie", "nginx's user").stdout.strip()
        context, url = site.context(), site.tls_url
        origin = {"Cookie": cookie, "Origin": url}
        assert get(f"{url}/push/subscribe", subscription(), context, **origin) == (
            200,
            {"ok": True, "count": 1},
        )
        assert get(f"{url}/push/subscriptions", None, context, **origin)[1]["count"] == 1
        assert (
            get(f"{url}/push/subscribe", {}, context, Cookie=cookie, Origin="https://evil.example")[0] == 403
        )
        assert get(f"{url}/push/subscribe", {"x": "x" * 20_000}, context, **origin)[0] == 413
        slow = [
            socket.create_connection(("127.0.0.1", site.tls_port)) for _ in range(40)
        ]  # they never send anything
        assert get(f"{url}/readyz", None, context)[0] == 200
        for one in slow:
            one.close()


@pytest.mark.skipif(NGINX is None, reason="nginx is not on this machine")
def test_nginx_closes_an_idle_connection_before_gunicorn_does(tmp_path: Path) -> None:
    site = Deployment(f"sqlite:///{tmp_path}/pushapp.db", tmp_path)

    def ends(status: str) -> set[tuple[int, int]]:
        found = psutil.net_connections("tcp4")
        return {(one.laddr.port, one.raddr.port) for one in found if one.status == status}

    with site.gunicorn(), site.nginx():
        assert get(f"{site.tls_url}/healthz", None, site.context())[0] == 200
        ((nginxs_port, _),) = {one for one in ends(psutil.CONN_ESTABLISHED) if one[1] == site.port}
        by_nginx, by_gunicorn = (nginxs_port, site.port), (site.port, nginxs_port)
        assert wait_until(lambda: bool({by_nginx, by_gunicorn} & ends(psutil.CONN_TIME_WAIT)), 10)
        assert by_gunicorn not in ends(psutil.CONN_TIME_WAIT)  # who is left with it has closed first


def test_names_every_setting_with_its_default() -> None:
    table = dict(re.findall(r"^\| `(PUSH_\w+)` \| (.*?) \|", README, re.MULTILINE))
    assert set(PUSH_DEFAULTS) <= set(table)
    for name, default in PUSH_DEFAULTS.items():
        if default is not None:
            assert table[name].strip("`") == json.dumps(default).strip('"')


def test_names_every_route(app: Flask) -> None:
    table = set(re.findall(r"`((?:GET|POST|DELETE) /[^` ]*)`", README))
    routes = {
        f"{method} {re.sub('<.*>', '<id>', rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert table == routes


def test_names_every_command(app: Flask) -> None:
    push = app.cli.commands["push"]
    commands = {f"push {name}" for name in push.commands} | {"demo"}  # type: ignore[attr-defined]
    assert commands <= set(re.findall(r"^\| `flask --app wsgi ((?:push )?[\w-]+)", README, re.MULTILINE))


def test_names_what_a_host_application_must_require() -> None:
    groups = re.findall(
        r"^# (.+)\n((?:[\w-]+[~>\[].*\n)+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE
    )
    sentence = README[README.index("Copy the folder") : README.index("call `init_app`")].replace("\n", " ")
    named = "".join(lines for group, lines in groups if f"*{group}*" in sentence)
    required = set(re.findall(r"^[\w-]+", named, re.MULTILINE))
    sources = [path.read_text() for path in ROOT.glob("pushapp/*.py") if path.name != "metrics.py"]
    modules = {
        name for source in sources for name in re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE)
    }
    for module in modules - sys.stdlib_module_names:
        (distribution,) = {name.lower().replace("_", "-") for name in packages_distributions()[module]}
        assert distribution in required | {"click", "werkzeug"}, module  # which are Flask's


def test_names_every_room() -> None:
    table = set(re.findall(r"^\| `(?:pushapp/)(\w+\.py)` \|", README, re.MULTILINE))
    assert table == {path.name for path in (ROOT / "pushapp").glob("*.py")}


def test_its_rooms_import_down_the_list_and_never_up() -> None:
    rooms = re.findall(r"^\| `pushapp/(\w+)\.py` \|", README, re.MULTILINE)
    for position, room in enumerate(rooms):
        source = (ROOT / "pushapp" / f"{room}.py").read_text()
        imported = re.findall(r"^ *from \.(\w+) import", source, re.MULTILINE)
        for names in re.findall(r"^ *from \. import (.*)$", source, re.MULTILINE):
            imported += re.findall(r"\b(\w+)(?=,|$| as| #)", names.replace(" as demo_site", ""))
        below = set(rooms[position + 1 :])
        assert {name for name in imported if name in rooms} <= below, (room, imported)


def test_its_python_sends(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    with app.app_context():
        exec(block("python", "from pushapp import EVERYONE"), {"user": SimpleNamespace(id="alice")})  # noqa: S102
        with db.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM push_messages").scalar() == 2


def test_its_message_is_taken(make_app: Callable[..., Flask]) -> None:
    client = make_app(PUSH_API_TOKENS=["token"]).test_client()
    body = json.loads(
        block("sh", "curl https://example.com/push/messages").partition("--json '")[2].partition("'")[0]
    )
    response = client.post("/push/messages", json=body, headers={"Authorization": "Bearer token"})
    assert response.status_code == 202


def test_its_request_is_answered(app: Flask) -> None:
    body = json.loads(
        block("sh", "curl https://example.com/push/subscribe").partition("--json '")[2].rpartition("'")[0]
    )
    assert signed_in(app, "alice").post("/push/subscribe", json=body).json == {"ok": True, "count": 1}
