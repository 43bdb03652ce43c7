"""The start: what `flask` of a host prints when pushapp cannot be added, in separate processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.conftest import KEY
from tests.hosts.shell import Shell
from tests.support.deployment import ROOT

PROGRAM = f"""
from flask import Blueprint, Flask
from flask.cli import AppGroup
from flask_sqlalchemy import SQLAlchemy
import pushapp

def create(*, before=lambda app: None, init=pushapp.init_app, **settings):
    app = Flask("host")
    app.config["PUSH_VAPID_PRIVATE_KEY"] = "{KEY}"
    app.config.update(settings)
    before(app)
    init(app)
    return app

def init_twice(app):
    pushapp.init_app(app)
    pushapp.init_app(app, cli_group="other")

def add_model(app):
    db = SQLAlchemy(app)
    db.Table("push_subscriptions", db.metadata)

def command_group():
    return create(before=lambda app: app.cli.add_command(AppGroup("push")))

def blueprint():
    return create(before=lambda app: app.register_blueprint(Blueprint("pushapp", __name__)))

def twice():
    return create(init=init_twice)

def model():
    return create(before=add_model, SQLALCHEMY_DATABASE_URI="sqlite://")

def mysql():
    return create(before=SQLAlchemy, SQLALCHEMY_DATABASE_URI="mysql+pymysql://user@localhost/name")

def binds():
    return create(before=SQLAlchemy, SQLALCHEMY_BINDS={{"other": "sqlite://"}})

def misspelt():
    return create(PUSH_API_TOKEN="x")

def same_site():
    return create(SESSION_COOKIE_SAMESITE="foo")

def key():
    return create(PUSH_VAPID_PRIVATE_KEY="x")
"""
MESSAGES = {
    "command_group": "the application has a command group named push: pass init_app another name as cli_group",
    "blueprint": "the application has a blueprint named pushapp: call init_app once, or rename yours",
    "twice": "the application has a blueprint named pushapp: call init_app once, or rename yours",
    "model": "your application has a table push_subscriptions, a name that pushapp's tables have: rename yours",
    "mysql": "the database is mysql: pushapp supports only postgresql and sqlite",
    "binds": "SQLALCHEMY_DATABASE_URI is not set: pushapp stores its tables there",
    "misspelt": "PUSH_API_TOKEN is not a setting: did you mean PUSH_API_TOKENS?",
    "same_site": "SESSION_COOKIE_SAMESITE must be Lax, Strict or None",
    "key": "PUSH_VAPID_PRIVATE_KEY must be the base64url of a 32-byte private key on P-256, as "
    "`python -m pushapp vapid-keys` prints it",
}


def test_the_hosts_flask_prints_one_line(tmp_path: Path) -> None:
    factories, shell = list(MESSAGES), Shell(tmp_path, PROGRAM)
    results = shell.run(*(f"--app host:{name} routes" for name in factories))
    for name, (status, output) in zip(factories, results, strict=True):
        assert (name, status, output) == (name, 1, f"Error: {MESSAGES[name]}\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["push db upgrade", "run --port 1", "db upgrade", "shell"])
def test_every_command_of_the_host_prints_one_line(tmp_path: Path, command: str) -> None:
    shell = Shell(tmp_path, PROGRAM)
    done = shell.python("-m", "flask", "--app", "host:command_group", *command.split())
    assert done.returncode == 1
    assert done.stderr == f"Error: {MESSAGES['command_group']}\n"
    assert done.stdout == ""


def test_vapid_keys_need_no_application(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pushapp", "vapid-keys"], cwd=tmp_path, capture_output=True, text=True,
        check=True, env={"PYTHONPATH": str(ROOT), "FLASK_PUSH_VAPID_SUBJEKT": "x", "DATABASE_URL": "x"},
    )  # fmt: skip
    assert done.stdout.startswith("FLASK_PUSH_VAPID_PRIVATE_KEY=")
    assert done.stderr == ""


def test_a_start_without_the_sites_url_is_a_warning_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "host.py").write_text(PROGRAM)
    for settings, lines in ({}, 1), ({"PUSH_SITE_URL": "https://example.com"}, 0):
        program = f"import host; host.create(**{settings!r})"
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert len(done.stderr.splitlines()) == lines
        assert done.stderr.startswith("PUSH_SITE_URL is not set: ") == bool(lines)
