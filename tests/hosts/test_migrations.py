"""Migrations: pushapp's and the host's are apart, in both directions, with Flask-Migrate as people use it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from tests.support.deployment import ROOT

HOST = """
import os
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
import pushapp
from pushapp.webpush.vapid import generate_key_pair

db = SQLAlchemy()

class User(db.Model):
    id = db.Column(db.Integer, primary_key=True)

def include_object(item, name, kind, reflected, compare_to):
    return name != "legacy"

def create_app():
    app = Flask("host")
    app.config.update(SQLALCHEMY_DATABASE_URI=os.environ["URL"], SECRET_KEY="x")
    app.config["PUSH_VAPID_PRIVATE_KEY"] = generate_key_pair().private
    db.init_app(app)
    if os.environ["ORDER"] == "migrate first":
        Migrate(app, db, include_object=include_object, include_schemas=True)
    pushapp.init_app(app)
    if os.environ["ORDER"] == "pushapp first":
        Migrate(app, db, include_object=include_object, include_schemas=True)
    return app
"""


class Shell:
    def __init__(self, folder: Path, url: str, order: str):
        (folder / "host.py").write_text(HOST)
        self.folder, self.url = folder, url
        self.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "URL": url, "ORDER": order}

    def flask(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "host", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def tables(self) -> set[str]:
        engine = create_engine(self.url)
        try:
            return set(inspect(engine).get_table_names()) - {"sqlite_sequence"}
        finally:
            engine.dispose()


OURS = {"push_subscriptions", "push_failures", "push_messages", "push_batches", "push_outcomes"}


@pytest.mark.slow
@pytest.mark.parametrize("order", ["migrate first", "pushapp first"])
def test_the_hosts_migrations_and_pushapps_do_not_see_each_other(
    url: str, tmp_path: Path, order: str
) -> None:
    shell = Shell(tmp_path, url, order)
    shell.flask("push", "db", "upgrade")
    shell.flask("db", "init")
    shell.flask("db", "migrate", "-m", "users")
    (revision,) = (tmp_path / "migrations" / "versions").glob("*.py")
    operations = re.findall(r"op\.\w+\('?(\w+)", revision.read_text())
    assert set(operations) == {"user"}
    shell.flask("db", "upgrade")
    shell.flask("db", "check")
    shell.flask("push", "db", "check")
    assert "0001" in shell.flask("push", "db", "current")
    assert shell.tables() == OURS | {"user", "alembic_version", "push_alembic_version"}
    shell.flask("push", "db", "downgrade", "base")
    assert shell.tables() == {"user", "alembic_version", "push_alembic_version"}
    shell.flask("push", "db", "upgrade")
    shell.flask("db", "downgrade")
    assert shell.tables() == OURS | {"alembic_version", "push_alembic_version"}
