"""The README's "Testing your site", copied into a host, runs without a network."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deployment import ROOT

SITE = """
from flask import Flask, request
import pushapp

def create_app():
    app = Flask("site_app")
    app.config.update(SECRET_KEY="the site's secret", SQLALCHEMY_DATABASE_URI="sqlite://")
    pushapp.init_app(app)

    @app.post("/comments")
    def comment():
        article = request.get_json()["article"]
        pushapp.send(pushapp.Message(title="A new comment", navigate=f"/articles/{article}"), to="alice")
        return "", 201

    return app
"""
WITHOUT_NETWORK = ["unshare", "--user", "--map-root-user", "--net"]


def run_suite(folder: Path, *arguments: str, prefix: list[str] | None = None) -> str:
    """Run pytest with the plugin in a folder, and return what it printed."""
    command = [*(prefix or []), sys.executable, "-m", "pytest", "-p", "pushapp.pytest_plugin", *arguments]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A host, and the README's tests of it."""
    page = (ROOT / "pushapp" / "README.md").read_text()
    (block,) = re.findall(r"```python\n(import pytest\n.*?)```", page, re.DOTALL)
    (tmp_path / "site_app.py").write_text(SITE)
    (tmp_path / "test_site.py").write_text(block)
    return tmp_path


def test_the_readmes_suite_succeeds(suite: Path) -> None:
    assert "3 passed" in run_suite(suite)


@pytest.mark.slow
def test_the_readmes_suite_succeeds_without_a_network(suite: Path) -> None:
    if not shutil.which("unshare") or subprocess.run([*WITHOUT_NETWORK, "true"], check=False).returncode:
        pytest.skip("needs unshare, and namespaces of the user's own")
    assert "3 passed" in run_suite(suite, prefix=WITHOUT_NETWORK)


def test_the_plugin_alone_imports_neither_flask_nor_sqlalchemy(tmp_path: Path) -> None:
    (tmp_path / "test_modules.py").write_text(
        "import sys\n\n"
        "def test_modules():\n"
        "    assert 'pushapp.pytest_plugin' in sys.modules\n"
        "    assert not {'flask', 'sqlalchemy', 'pycurl'} & set(sys.modules)\n"
    )
    assert "1 passed" in run_suite(tmp_path)
