"""Migrations: pushapp's and the host's do not see each other, with Flask-Migrate as people use it."""

import re
from collections.abc import Callable
from pathlib import Path

import procrastinate
import psycopg
import pytest
from flask import Flask
from sqlalchemy import create_engine, inspect, text

from tests.hosts.conftest import KEY, Host, store
from tests.hosts.shell import Shell

PROGRAM = f"""
import os
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
import pushapp

db = SQLAlchemy()

class User(db.Model):
    id = db.Column(db.Integer, primary_key=True)

if os.environ["URL"].startswith("postgresql"):
    class Message(db.Model):
        __tablename__ = "push_messages"
        __table_args__ = {{"schema": "app"}}
        id = db.Column(db.Integer, primary_key=True)

def include_object(item, name, kind, reflected, compare_to):
    return name != "legacy"

def create_app():
    app = Flask("host")
    app.config.update(SQLALCHEMY_DATABASE_URI=os.environ["URL"], SECRET_KEY="x", PUSH_VAPID_PRIVATE_KEY="{KEY}")
    app.config["SQLALCHEMY_BINDS"] = {{"other": "sqlite:///other.db"}}
    db.init_app(app)
    in_env = {{}} if "env.py" in os.environ["FILTER"] else {{"include_object": include_object, "include_schemas": True}}
    if "Migrate first" in os.environ["ORDER"]:
        Migrate(app, db, **in_env)
    pushapp.init_app(app)
    if "pushapp first" in os.environ["ORDER"]:
        Migrate(app, db, **in_env)
    return app
"""
OURS = {
    "push_subscriptions",
    "push_channel_members",
    "push_failures",
    "push_messages",
    "push_batches",
    "push_outcomes",
    "push_daily_counts",
    "push_receipts",
    "push_receipt_counts",
}
VERSIONS = {"alembic_version", "push_alembic_version"}


@pytest.fixture
def make_shell(tmp_path: Path, url: str) -> Callable[[str, str], Shell]:
    """Create hosts with a table of their own that is in no model, and a table that their filter hides."""

    def make(order: str, where: str) -> Shell:
        statements = ["CREATE TABLE orphan (id integer)", "CREATE TABLE legacy (id integer)"]
        if url.startswith("postgresql"):
            statements.append("CREATE SCHEMA app")
        execute(url, *statements)
        return Shell(tmp_path, PROGRAM, URL=url, ORDER=order, FILTER=where)

    return make


def execute(url: str, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names()) - {"sqlite_sequence"}
    finally:
        engine.dispose()


def schemas(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_schema_names())
    finally:
        engine.dispose()


def filter_in_env(folder: Path) -> None:
    env = folder / "migrations" / "env.py"
    arguments = (
        "include_object=include_object, include_name=lambda name, kind, parents: True, include_schemas=True,"
    )
    env.write_text(
        "from host import include_object\n"
        + env.read_text().replace("**conf_args", f"{arguments} **conf_args")
    )


def operations(folder: Path) -> set[tuple[str, str]]:
    """Return what the host's first migration creates and drops."""
    (revision,) = (folder / "migrations" / "versions").glob("*.py")
    upgrades = re.findall(r"def upgrade.*?(?=\ndef |\Z)", revision.read_text(), re.DOTALL)
    return set(re.findall(r"op\.(\w+)\('(\w+)", "".join(upgrades)))


@pytest.mark.parametrize(
    ("url", "order", "where"),
    [
        ("postgresql", "pushapp first", "Migrate()"),
        pytest.param("postgresql", "pushapp first", "env.py", marks=pytest.mark.slow),
        pytest.param("postgresql", "Migrate first", "Migrate()", marks=pytest.mark.slow),
        pytest.param("postgresql", "Migrate first", "env.py", marks=pytest.mark.slow),
        pytest.param("sqlite", "Migrate first", "Migrate()", marks=pytest.mark.slow),
        pytest.param("sqlite", "Migrate first", "env.py", marks=pytest.mark.slow),
        pytest.param("sqlite", "pushapp first", "env.py", marks=pytest.mark.slow),
        pytest.param("sqlite", "pushapp first", "Migrate()", marks=pytest.mark.slow),
    ],
    indirect=["url"],
)
def test_the_hosts_migrations_and_pushapps_do_not_see_each_other(
    make_shell: Callable[[str, str], Shell], url: str, order: str, where: str
) -> None:
    shell = make_shell(order, where)
    commands: tuple[str, ...] = ("push db upgrade", "db init")
    if where == "env.py":
        shell.succeed(*commands)
        filter_in_env(shell.folder)
        commands = ()
    output = shell.succeed(
        *commands, "db migrate -m users", "db upgrade", "db check", "push db check", "push db current"
    )
    assert "(head)" in output
    created = {("create_table", "user"), ("drop_table", "orphan")}
    if url.startswith("postgresql"):
        created.add(("create_table", "push_messages"))  # the host's, in its schema app
    assert operations(shell.folder) == created
    assert tables(url) == OURS | VERSIONS | {"user", "legacy"}
    shell.succeed(
        "push db downgrade base", "db check", "push db upgrade", "db downgrade base", "push db check"
    )
    assert tables(url) == OURS | VERSIONS | {"legacy", "orphan"}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.slow
def test_a_host_with_several_databases_migrates_its_own_tables(
    make_shell: Callable[[str, str], Shell], url: str
) -> None:
    shell = make_shell("Migrate first", "Migrate()")
    shell.succeed("push db upgrade", "db init --multidb", "db migrate -m users", "db upgrade", "db check")
    assert operations(shell.folder) == {("create_table", "user"), ("drop_table", "orphan")}
    assert tables(url) >= OURS


def invoke(app: Flask, *arguments: str) -> str:
    done = app.test_cli_runner().invoke(args=["push", "db", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_downgrade_leaves_the_hosts_tables_and_an_upgrade_follows(host: Host, url: str) -> None:
    app = host.add_pushapp(tables=False)
    with app.app_context():
        host.db.create_all()
    execute(url, 'INSERT INTO "user" VALUES (7)')
    for _ in range(2):
        assert invoke(app, "current") == ""
        invoke(app, "upgrade")
        assert "(head)" in invoke(app, "current")
        assert "No new upgrade operations" in invoke(app, "check")
        with app.app_context():
            assert store() == 1
        assert tables(url) == OURS | {"user", "push_alembic_version"}
        invoke(app, "downgrade", "base")
        assert tables(url) == {"user", "push_alembic_version"}
        assert "push_queue" not in schemas(url)
    with app.app_context():
        assert host.db.session.execute(host.users.select()).all() == [(7,)]
    assert host.app.test_cli_runner().invoke(args=["push", "db", "check"]).exit_code == 1


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_procrastinate_of_the_hosts_and_pushapps_do_not_meet(host: Host, url: str) -> None:
    manager = procrastinate.App(connector=procrastinate.SyncPsycopgConnector()).schema_manager
    count = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'procrastinate_%' AND pronamespace = 'public'::regnamespace"
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(manager.get_schema().encode())
        functions = connection.execute(count.encode()).fetchone()
        app = host.add_pushapp()
        with app.app_context():
            assert store() == 1
            host.db.session.rollback()
        invoke(app, "downgrade", "base")
        assert connection.execute(count.encode()).fetchone() == functions
        connection.execute(b"SELECT * FROM procrastinate_jobs")
    assert functions is not None
    assert functions[0] > 10


@pytest.mark.parametrize(
    ("url", "foreign"),
    [
        ("sqlite", "TABLE push_subscriptions (mine integer)"),
        ("sqlite", "VIEW push_messages AS SELECT 1 AS mine"),
        ("postgresql", "TABLE push_subscriptions (mine integer)"),
        ("postgresql", "VIEW push_messages AS SELECT 1 AS mine"),
        ("postgresql", "SCHEMA push_queue"),
    ],
    indirect=["url"],
)
@pytest.mark.parametrize("is_downgraded", [False, True])
def test_a_foreign_name_in_the_database_is_rejected_and_stays(
    host: Host, url: str, foreign: str, is_downgraded: bool
) -> None:
    kind, name = foreign.split()[:2]
    app = host.add_pushapp(tables=is_downgraded)
    if is_downgraded:
        invoke(app, "downgrade", "base")
    execute(url, f"CREATE {foreign}")
    before = tables(url)
    done = app.test_cli_runner().invoke(args=["push", "db", "upgrade"])
    assert done.exit_code == 1
    assert done.output == (
        f"Error: the database has a {kind.lower()} {name} that is not pushapp's: rename it, then run this again\n"
    )
    assert tables(url) == before
    if kind != "SCHEMA":
        execute(url, f"SELECT mine FROM {name}")


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_role_that_may_not_create_tables_is_a_one_line_error(
    make_host: Callable[..., Host], url: str
) -> None:
    role = f"limited_{url.rpartition('/')[2]}"
    execute(url, f'CREATE ROLE "{role}" LOGIN')
    app = make_host(url.replace("postgres@", f"{role}@")).add_pushapp(tables=False)
    for grant in (None, f'GRANT CREATE ON SCHEMA public TO "{role}"'):
        if grant:
            execute(url, grant)
        done = app.test_cli_runner().invoke(args=["push", "db", "upgrade"])
        assert done.exit_code == 1
        assert done.output.startswith(
            "Error: the role needs CREATE on the database and its schema: permission denied"
        )
        assert len(done.output.splitlines()) == 1
        assert tables(url) == set()
