"""The engine: pushapp's own on PostgreSQL, whatever the host's driver and options; the host's stays as it is."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import MetaData, text

import pushapp
from pushapp import subscriptions
from pushapp.database import connection_parameters, engine
from pushapp.subscriptions import Subscription
from tests.hosts.conftest import Host
from tests.support.deployment import ROOT
from tests.support.subscriptions import subscription

on_postgresql = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


def stored(user_id: str = "alice") -> int:
    body = subscription()
    return subscriptions.save(user_id, Subscription(body["endpoint"], **body["keys"]))


def test_what_the_host_has_not_committed_stays_uncommitted(host: Host) -> None:
    app = host.add_pushapp()
    with app.app_context():
        host.db.create_all()
        host.db.session.execute(host.users.insert().values(id=99))
        if engine().dialect.name == "postgresql":  # SQLite has one writer at a time
            assert stored() == 1
        host.db.session.rollback()
        assert host.db.session.execute(host.users.select()).all() == []


@on_postgresql
def test_a_psycopg2_host_subscribes_and_sends(url: str, tmp_path: Path) -> None:
    host = Host(url.replace("+psycopg", "+psycopg2"), tmp_path)
    app = host.add_pushapp()
    with app.app_context():
        assert host.db.engine.driver == "psycopg2"
        assert engine().driver == "psycopg"
        assert engine().pool.size() == 5
        assert stored() == 1
        assert pushapp.send(pushapp.Message(title="x"), to="alice") == 1
    host.close()


@on_postgresql
def test_the_hosts_connect_args_that_libpq_knows_are_used(url: str, tmp_path: Path) -> None:
    host = Host(f"{url}?application_name=from-url", tmp_path)
    host.app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "connect_args": {"options": "-c work_mem=123kB", "autocommit": False, "connect_timeout": 77}
    }
    app = host.add_pushapp()
    with app.app_context(), engine().connect() as connection:
        shown = {
            name: connection.execute(text(f"SHOW {name}")).scalar()
            for name in ("work_mem", "application_name", "statement_timeout", "TimeZone")
        }
        assert shown == {
            "work_mem": "123kB",
            "application_name": "from-url",
            "statement_timeout": "1300ms",
            "TimeZone": "UTC",
        }
        parameters = connection_parameters("search_path=push_queue")
        assert parameters["options"] == "-c work_mem=123kB -c search_path=push_queue"
        assert (parameters["connect_timeout"], parameters["application_name"]) == (2, "from-url")
    host.close()


@on_postgresql
def test_a_naming_convention_and_a_schema_of_the_host_do_not_matter(url: str, tmp_path: Path) -> None:
    metadata = MetaData(schema="app", naming_convention={"uq": "unique_%(table_name)s"})
    host = Host(url, tmp_path, metadata)
    app = host.add_pushapp()
    with app.app_context():
        assert stored() == 1
        assert pushapp.send(pushapp.Message(title="x"), to="alice") == 1
    host.close()


@on_postgresql
def test_further_binds_of_the_host_do_not_matter(url: str, tmp_path: Path) -> None:
    host = Host(url, tmp_path)
    host.app.config["SQLALCHEMY_BINDS"] = {"other": "sqlite://"}
    with host.add_pushapp().app_context():
        assert stored() == 1
    host.close()


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Host]:
    host = Host("sqlite://", tmp_path)
    yield host
    host.close()


def test_a_database_in_memory_works(in_memory: Host) -> None:
    with in_memory.add_pushapp().app_context():
        assert stored() == 1


METRICS_HOST = """
import pushapp
from flask import Flask
from pushapp.webpush.vapid import generate_key_pair
app = Flask("host", instance_path="/")
app.config.update(SQLALCHEMY_DATABASE_URI="postgresql://user@127.0.0.1:1/name", PUSH_METRICS=True)
app.config["PUSH_VAPID_PRIVATE_KEY"] = generate_key_pair().private
pushapp.init_app(app)
print(app.test_client().get("/metrics").status_code)
"""


def test_metrics_respond_while_the_database_is_unavailable(tmp_path: Path) -> None:
    # In a process of its own: prometheus_client reads its settings at import.
    environment = {"PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", METRICS_HOST], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout == "200\n", done.stderr
