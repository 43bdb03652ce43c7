"""client.js, its types, and service-worker.js: size, caching, the server's own address."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

import pushapp
from tests.support.deployment import ROOT

STATIC = ROOT / "pushapp" / "static"
MAX_SIZE = 12 * 1024
EXPORTS = {"supported", "current", "subscribe", "resume", "unsubscribe", "PushError"}
CODES = {
    "unsupported", "insecure", "home-screen", "denied", "dismissed", "push-service", "unreachable", "signed-out",
    "refused", "worker",
}  # fmt: skip


@pytest.mark.parametrize("name", ["client.js", "service-worker.js"])
def test_a_script_is_small_and_revalidated(make_app: Callable[..., Flask], name: str) -> None:
    client = make_app(SEND_FILE_MAX_AGE_DEFAULT=31_536_000).test_client()
    response = client.get(f"/push/{name}")
    assert (response.status_code, response.mimetype) == (200, "text/javascript")
    assert response.headers["Cache-Control"] == "no-cache"
    assert len(response.data) < MAX_SIZE
    cached = client.get(f"/push/{name}", headers={"If-None-Match": response.headers["ETag"]})
    assert (cached.status_code, cached.data) == (304, b"")
    assert cached.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("root", "prefix"), [("", "/push"), ("/app", "/push"), ("", "/a/b"), ("/ü'\"", "/p")]
)
def test_the_worker_holds_the_prefix(
    make_app: Callable[..., Flask], database_url: str, tmp_path_factory: pytest.TempPathFactory, root: str, prefix: str
) -> None:  # fmt: skip
    host = Flask("host", instance_path=str(tmp_path_factory.mktemp("host")))
    host.config.update(SECRET_KEY="x", SQLALCHEMY_DATABASE_URI=database_url)
    pushapp.init_app(host, url_prefix=prefix)
    response = host.test_client().get(f"{prefix}/service-worker.js", environ_overrides={"SCRIPT_NAME": root})
    (written,) = re.findall(r"const PREFIX = (.*?);", response.text)
    path = json.loads(written)
    assert path.endswith(f"{prefix}/")
    assert path.isascii()
    assert '"' not in path
    assert root != "/app" or path == f"/app{prefix}/"


def test_the_static_worker_has_the_line_that_the_server_replaces() -> None:
    assert (STATIC / "service-worker.js").read_text().count('const PREFIX = "/push/";') == 1


def test_the_types_declare_all_exports() -> None:
    script, types = (STATIC / "client.js").read_text(), (STATIC / "client.d.ts").read_text()
    pattern = r"^export (?:async )?(?:function|class) (\w+)"
    assert set(re.findall(pattern, script, re.MULTILINE)) == EXPORTS
    assert set(re.findall(pattern, types, re.MULTILINE)) == EXPORTS
    assert set(re.findall(r'^  \| "([a-z-]+)"', types, re.MULTILINE)) == CODES
    used = re.findall(r'new PushError\(\s*"([a-z-]+)"', script)
    assert set(used) == CODES


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_module_exports_what_the_types_declare() -> None:
    program = f"""
        globalThis.navigator ??= {{}};
        const exported = await import({json.dumps((STATIC / "client.js").as_uri())});
        console.log(JSON.stringify(Object.keys(exported)));
    """
    command = ["node", "--input-type=module", "--no-warnings", "--eval", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) == EXPORTS


def test_the_worker_can_only_be_registered_for_the_prefix(client: FlaskClient) -> None:
    assert "Service-Worker-Allowed" not in client.get("/push/service-worker.js").headers


def test_the_module_holds_the_current_key(make_app: Callable[..., Flask]) -> None:
    client = make_app().test_client()
    key = client.get("/push/vapid-public-key").get_json()["publicKey"]
    assert f'const KEY = "{key}";' in client.get("/push/client.js").text
    assert (STATIC / "client.js").read_text().count('const KEY = "";') == 1
