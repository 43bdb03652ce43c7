"""The package: what it requires, what the wheel holds, and that a host runs on it alone."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from pushapp import __version__
from tests.support.deployment import README, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HOST = """
import pushapp
from flask import Flask
from pushapp.testing import create_tables
app = Flask("host")
app.config.update(SECRET_KEY="x", SQLALCHEMY_DATABASE_URI="sqlite://")
pushapp.init_app(app)
create_tables(app)
client = app.test_client()
with client.session_transaction() as session:
    session["user_id"] = "alice"
print(client.get("/push/subscriptions").json, client.get("/push/client.js").status_code, pushapp.__file__)
"""


def requirements() -> set[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return {re.split(r"\s+#", line)[0].strip() for line in lines if line and not line.startswith("#")}


def test_dependencies_are_those_of_requirements_txt() -> None:
    optional = [each for extra in PROJECT["optional-dependencies"].values() for each in extra]
    assert {*PROJECT["dependencies"], *optional} == requirements()
    assert len(PROJECT["dependencies"]) + len(optional) == len(requirements())


def test_every_requirement_says_what_it_is_for() -> None:
    for page in ("requirements.txt", "tests/requirements.txt"):
        for line in (ROOT / page).read_text().splitlines():
            assert not line or line.startswith(("#", "-r ")) or re.search(r"  # \S", line), line


def test_the_workflow_tries_the_versions_that_the_project_names() -> None:
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    pythons, servers = (
        json.loads(re.findall(rf"{name}: (\[.*\])", workflow)[0]) for name in ("python", "postgresql")
    )
    named = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r"Python :: 3\.", each)]
    assert set(named) <= set(pythons)
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    assert f"Python {pythons[0]} or later" in README
    assert f"PostgreSQL {servers[0]} or later" in README


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: a build leaves folders in its source.
    source = folder / "source"
    for name in ("pushapp", "migrations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command: list[str | Path] = [sys.executable, "-m", "build", "--wheel", "--outdir", folder, source]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_static_files_and_migrations_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"pushapp", f"pushapp-{__version__}.dist-info"}
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "pushapp").rglob("*") if path.is_file()}
    wanted = {name for name in files if "__pycache__" not in name and not name.endswith(".md")}
    wanted |= {f"pushapp/{path.relative_to(ROOT)}" for path in (ROOT / "migrations").rglob("*.py")}
    wanted |= {"pushapp/migrations/alembic.ini", "pushapp/migrations/script.py.mako"}
    assert {name for name in names if name.startswith("pushapp/")} == wanted
    assert "pushapp/py.typed" in names


@pytest.mark.slow
def test_a_host_runs_on_the_wheel_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {"PATH": os.environ["PATH"]}
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True, env=environment, cwd=tmp_path)
    (tmp_path / "host.py").write_text(HOST)
    done = subprocess.run(
        [python, "host.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{'count': 0, 'subscriptions': []} 200 ")
    assert str(tmp_path / "venv") in done.stdout
    keys = subprocess.run(
        [python, "-m", "pushapp", "vapid-keys"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert keys.stdout.startswith("FLASK_PUSH_VAPID_PRIVATE_KEY=")
