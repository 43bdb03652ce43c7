"""The engine: pushapp's own on PostgreSQL, whatever the host's driver and options; the host's stays as it is."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, MetaData, QueuePool, event, make_url, text

import pushapp
from pushapp import Message, subscriptions
from pushapp.database import connection_parameters, engine
from pushapp.sending.status import status
from pushapp.sending.worker import run_worker
from tests.hosts.conftest import Host, store
from tests.hosts.shell import Shell
from tests.support.postgresql import free_port
from tests.support.push_server import PushServer
from tests.support.subscriptions import subscription

on_postgresql = pytest.mark.parametrize("url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@pytest.mark.parametrize(("url", "driver"), [("sqlite", ""), ("postgresql", ""), ("postgresql", "psycopg2")], indirect=["url"])  # fmt: skip
def test_the_hosts_transactions_stay_its_own(make_host: Callable[..., Host], url: str, driver: str) -> None:
    host = make_host(url.replace("+psycopg", f"+{driver}") if driver else url)
    app = host.add_pushapp()
    with app.app_context():
        host.db.create_all()
        for user_id in (1, 2):  # on SQLite, the second time with the connection that pushapp has used
            assert store() == user_id
            host.db.session.execute(host.users.insert().values(id=user_id))
            if engine() is not host.db.engine:
                assert store(f"user {user_id}") == 1
            host.db.session.rollback()
            assert host.db.session.execute(host.users.select()).all() == []
            host.db.session.remove()
        host.db.session.execute(host.users.insert().values(id=3))
        host.db.session.commit()
        with host.db.engine.connect() as connection:
            assert connection.get_isolation_level() == connection.default_isolation_level
            assert connection.execute(host.users.select()).all() == [(3,)]
        assert len(subscriptions.list_for("alice")) == 2


def pool_size(database_engine: Engine) -> int:
    assert isinstance(database_engine.pool, QueuePool)
    return database_engine.pool.size()


@on_postgresql
def test_a_psycopg2_host_subscribes_sends_and_runs_a_worker(
    make_host: Callable[..., Host], url: str, push_server: PushServer
) -> None:
    host = make_host(url.replace("+psycopg", "+psycopg2"), PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin])
    # Both are psycopg2's own, and unknown to libpq.
    host.app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "connect_args": {"connection_factory": None, "cursor_factory": None, "sslmode": "prefer"},
        "pool_size": 17,
    }
    app = host.add_pushapp(user_id=lambda: "alice")
    body = push_server.subscription()
    assert app.test_client().post("/push/subscribe", json=body).get_json()["count"] == 1
    with app.app_context():
        assert (host.db.engine.driver, pool_size(host.db.engine)) == ("psycopg2", 17)
        assert (engine().driver, pool_size(engine())) == ("psycopg", 5)
        message_id = pushapp.send(Message(title="x"), to="alice")
        asyncio.run(run_worker(app, drain=True))
        assert status(message_id).sent == 1
    assert len(push_server.pushes_to(body)) == 1


def show(*names: str) -> dict[str, Any]:
    with engine().connect() as connection:
        return {name: connection.execute(text(f"SHOW {name}")).scalar() for name in names}


@on_postgresql
@pytest.mark.parametrize("place", ["SQLALCHEMY_ENGINE_OPTIONS", "engine_options", "SQLALCHEMY_BINDS", "URL"])
def test_the_hosts_connect_args_that_libpq_knows_are_used(
    make_host: Callable[..., Host], url: str, place: str
) -> None:
    known = {"options": "-c work_mem=123kB -c search_path=public", "application_name": "from the host"}
    unknown = {"autocommit": False, "row_factory": None}
    connect_args = known | unknown | {"connect_timeout": 77, "sslmode": "allow"}
    if place == "URL":
        complete = make_url(url).update_query_dict(known | {"sslmode": "allow", "connect_timeout": "77"})
        host = make_host(complete)
    else:
        host = make_host(url)
    if place == "SQLALCHEMY_ENGINE_OPTIONS":
        host.app.config[place] = {"connect_args": connect_args}
    elif place == "SQLALCHEMY_BINDS":
        host.app.config[place] = {None: {"url": url, "connect_args": connect_args}, "other": "sqlite://"}
        del host.app.config["SQLALCHEMY_DATABASE_URI"]
    elif place == "engine_options":
        host.db._engine_options = {"connect_args": connect_args}
    with host.add_pushapp().app_context():
        assert show("work_mem", "application_name", "statement_timeout", "TimeZone") == {
            "work_mem": "123kB",
            "application_name": "from the host",
            "statement_timeout": "1300ms",
            "TimeZone": "UTC",
        }
        parameters = connection_parameters("search_path=push_queue")
        assert parameters["options"] == f"{known['options']} -c search_path=push_queue"
        expected = {"connect_timeout": 2, "application_name": "from the host", "sslmode": "allow"}
        assert expected.items() <= parameters.items()
        assert not unknown.keys() & parameters.keys()


@on_postgresql
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_several_servers_in_the_url_are_tried_in_order(
    make_host: Callable[..., Host], url: str, driver: str
) -> None:
    server = make_url(url)
    hosts = [f"127.0.0.1:{free_port()}", f"{server.host}:{server.port}"]
    several = server.set(drivername=f"postgresql+{driver}", host=None, port=None, query={"host": hosts})
    app = make_host(several.render_as_string(hide_password=False)).add_pushapp()
    with app.app_context():
        assert store() == 1
        message_id = pushapp.send(Message(title="x"), to="user without subscriptions")
        asyncio.run(run_worker(app, drain=True))
        assert status(message_id).fan_out_complete


@on_postgresql
def test_a_threshold_for_prepared_statements_is_the_drivers(make_host: Callable[..., Host], url: str) -> None:
    for threshold in (None, 0, 7):
        app = make_host(url, PUSH_PREPARE_THRESHOLD=threshold).add_pushapp()
        with app.app_context(), engine().connect() as connection:
            driver_connection: Any = connection.connection.driver_connection
            assert driver_connection.prepare_threshold == threshold
            assert connection_parameters()["prepare_threshold"] == threshold


@on_postgresql
def test_a_naming_convention_a_schema_and_binds_of_the_host_do_not_matter(
    make_host: Callable[..., Host], url: str
) -> None:
    convention = {name: f"host_{name}_%(table_name)s" for name in ("ix", "uq", "ck", "fk", "pk")}
    metadata = MetaData(schema="app", naming_convention=convention)
    host = make_host(url, metadata=metadata, SQLALCHEMY_BINDS={"other": "sqlite://"})
    app = host.add_pushapp()
    with app.app_context():
        assert [store(), store()] == [1, 2]
        assert pushapp.send(Message(title="x"), to="alice") == 1
    assert app.test_cli_runner().invoke(args=["push", "db", "check"]).exit_code == 0


@pytest.fixture
def listeners() -> Iterator[Callable[..., None]]:
    """Listen to events of engines until the end of the test."""
    registered: list[tuple[Any, str, Any]] = []

    def listen(target: Any, name: str, function: Any) -> None:
        event.listen(target, name, function)
        registered.append((target, name, function))

    yield listen
    for each in registered:
        event.remove(*each)


@on_sqlite
def test_a_host_that_begins_sqlites_transactions_itself_loses_nothing(
    host: Host, listeners: Callable[..., None]
) -> None:
    # As SQLAlchemy's documentation of the dialect shows it.
    def disable_begin(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    host.db.init_app(host.app)
    with host.app.app_context():
        listeners(host.db.engine, "connect", disable_begin)
        listeners(host.db.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    client = host.add_pushapp(user_id=lambda: "alice").test_client()
    for count in (1, 2):
        assert client.post("/push/subscribe", json=subscription()).get_json()["count"] == count
    stored = client.get("/push/subscriptions").get_json()
    assert stored["count"] == 2
    assert client.delete(f"/push/subscriptions/{stored['subscriptions'][0]['id']}").status_code == 204
    assert client.get("/push/subscriptions").get_json()["count"] == 1


@on_postgresql
def test_listeners_of_the_host_for_all_engines_may_execute_statements(
    host: Host, listeners: Callable[..., None]
) -> None:
    def configure(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET work_mem = '124kB'")

    listeners(Engine, "connect", configure)
    with host.add_pushapp().app_context():
        assert [store(), store()] == [1, 2]
        assert show("work_mem") == {"work_mem": "124kB"}


def test_a_database_in_memory_works(make_host: Callable[..., Host]) -> None:
    app = make_host("sqlite://").add_pushapp()
    pushapp.testing.create_tables(app)  # again: nothing to do
    with app.app_context():
        assert store() == 1


UNAVAILABLE = """
import pushapp
from flask import Flask
from pushapp.webpush.vapid import generate_key_pair
def create_app():
    app = Flask("host")
    app.config.update(SQLALCHEMY_DATABASE_URI="postgresql://user:s3cr3t@127.0.0.1:1/name", PUSH_METRICS=True)
    app.config["PUSH_VAPID_PRIVATE_KEY"] = generate_key_pair().private
    pushapp.init_app(app, user_id=lambda: "alice")
    return app
if __name__ == "__main__":
    client = create_app().test_client()
    print(client.get("/push/subscriptions").status_code, client.get("/metrics").status_code, client.get("/metrics").text)
"""


def test_metrics_respond_while_the_database_is_unavailable(tmp_path: Path) -> None:
    # In a separate process: prometheus_client reads its settings at import.
    shell = Shell(tmp_path, UNAVAILABLE)
    done = shell.python("host.py")
    assert done.stdout.startswith("503 200 "), done.stderr
    assert 'pushapp_requests_total{method="GET",route="/push/subscriptions",status="503"} 1.0' in done.stdout
    assert "pushapp_queue" not in done.stdout


@pytest.mark.slow
@on_postgresql
@pytest.mark.parametrize("group", ["push", "notify"])
def test_a_drain_without_tables_is_a_one_line_error(tmp_path: Path, url: str, group: str) -> None:
    program = UNAVAILABLE.replace("postgresql://user:s3cr3t@127.0.0.1:1/name", url)
    program = program.replace("init_app(app, ", f'init_app(app, cli_group="{group}", ')
    ((status, output),) = Shell(tmp_path, program).run(f"{group} worker --drain")
    assert (status, output) == (1, f"Error: the database has no queue yet: run `flask {group} db upgrade`\n")


@pytest.mark.parametrize("group", ["push", "notify"])
def test_an_unavailable_database_is_a_one_line_error(tmp_path: Path, group: str) -> None:
    program = UNAVAILABLE.replace("init_app(app, ", f'init_app(app, cli_group="{group}", ')
    commands = (f"{group} list alice", f"{group} prune", f"{group} db upgrade", f"{group} db check")
    results = Shell(tmp_path, program).run(*commands)
    for exit_status, output in results:
        assert exit_status == 1
        assert output.startswith("Error: database unavailable")
        assert len(output.splitlines()) == 1
        assert "s3cr3t" not in output
    assert [f"(flask {group} db upgrade)" in output for _, output in results] == [True, True, False, False]


def test_the_application_starts_while_its_database_is_unavailable(tmp_path: Path) -> None:
    app = Flask("host", instance_path=str(tmp_path))
    host = Host(f"postgresql+psycopg://user@127.0.0.1:{free_port()}/name", tmp_path)
    app = host.add_pushapp(tables=False, user_id=lambda: "alice")
    response = app.test_client().post("/push/subscribe", json=subscription())
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
    assert app.test_client().get("/").text == "Welcome"
    host.close()
