"""`flask db …`, from any folder, on both databases; readiness by revision."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory
from flask import Flask
from flask_migrate import downgrade, upgrade
from sqlalchemy import Engine, create_engine, inspect, text

from pushapp import create_app
from pushapp.database import engine as push_engine
from pushapp.extensions import MIGRATIONS
from pushapp.web.health import OLDEST_REVISION
from tests.conftest import SETTINGS
from tests.support.deployment import ROOT
from tests.support.postgresql import BINARIES

TABLES = {
    "push_subscriptions",
    "push_failures",
    "push_messages",
    "push_batches",
    "push_outcomes",
    "push_channel_members",
    "push_daily_counts",
    "push_receipts",
    "push_receipt_counts",
}

postgresql_only = pytest.mark.parametrize("url", ["postgresql"], indirect=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/pushapp.db"
    url: str = request.getfixturevalue("server").create_database(tmp_path.name)
    return url


@pytest.fixture
def app(url: str, tmp_path: Path) -> Iterator[Flask]:
    app = create_app(SETTINGS | {"SQLALCHEMY_DATABASE_URI": url}, instance_path=str(tmp_path))
    yield app
    with app.app_context():
        push_engine().dispose()


def flask(*arguments: str, url: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a `flask` command in a process, from another folder."""
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": url,
        "SECRET_KEY": str(SETTINGS["SECRET_KEY"]),
        "FLASK_PUSH_VAPID_PRIVATE_KEY": str(SETTINGS["PUSH_VAPID_PRIVATE_KEY"]),
    }
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", ROOT / "wsgi.py", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@contextmanager
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()


def tables(url: str) -> set[str]:
    with engine(url) as connectable:
        return set(inspect(connectable).get_table_names()) - {"push_alembic_version", "sqlite_sequence"}


def test_upgrade_from_any_folder_downgrade_and_upgrade(url: str, app: Flask, tmp_path: Path) -> None:
    done = flask("db", "upgrade", url=url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tables(url) == TABLES
    with app.app_context():
        downgrade(revision="base")
        assert tables(url) == set()
        upgrade()
        assert tables(url) == TABLES


def test_check_finds_no_difference_from_the_models(url: str, app: Flask) -> None:
    with app.app_context():
        upgrade()
    done = app.test_cli_runner().invoke(args=["db", "check"])
    assert done.exit_code == 0, done.output


def test_check_reports_a_table_that_differs_from_the_models(url: str, app: Flask) -> None:
    with app.app_context():
        upgrade()
        with push_engine().begin() as connection:
            connection.execute(text("DROP INDEX ix_push_subscriptions_endpoint_hash"))
    done = app.test_cli_runner().invoke(args=["db", "check"])
    assert done.exit_code != 0
    assert "ix_push_subscriptions_endpoint_hash" in done.stderr


def test_offline_mode_prints_the_sql_of_the_same_schema(url: str, app: Flask, tmp_path: Path) -> None:
    done = flask("db", "upgrade", "--sql", url=url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CREATE TABLE push_subscriptions" in done.stdout
    assert tables(url) == set()
    execute_script(url, done.stdout)
    assert tables(url) == TABLES
    checked = app.test_cli_runner().invoke(args=["db", "check"])
    assert checked.exit_code == 0, checked.output
    if url.startswith("postgresql"):
        assert_queue_is_in_its_schema(url)


def execute_script(url: str, script: str) -> None:
    if url.startswith("postgresql"):
        command: list[str | Path] = [BINARIES / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url]
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    else:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(script)


class TestQueue:
    FOREIGN = (
        "CREATE TABLE public.procrastinate_jobs (id int); INSERT INTO public.procrastinate_jobs VALUES (42);"
        " CREATE FUNCTION public.procrastinate_fetch_job() RETURNS int LANGUAGE sql AS 'SELECT 42'"
    )

    @postgresql_only
    def test_is_in_its_own_schema_with_fixed_search_paths(self, url: str, app: Flask) -> None:
        with app.app_context():
            upgrade()
        assert tables(url) == TABLES  # of the schema public
        assert_queue_is_in_its_schema(url)

    @postgresql_only
    def test_leaves_another_queue_in_the_schema_public_unchanged(self, url: str, app: Flask) -> None:
        with psycopg.connect(url) as connection:
            connection.execute(self.FOREIGN.encode())
        with app.app_context():
            upgrade()
            self.assert_unchanged(url)
            assert_queue_is_in_its_schema(url)
            downgrade(revision="base")
        self.assert_unchanged(url)
        assert tables(url) == {"procrastinate_jobs"}
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT to_regnamespace('push_queue')").fetchone() == (None,)

    def assert_unchanged(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT id FROM public.procrastinate_jobs").fetchall() == [(42,)]
            assert connection.execute("SELECT public.procrastinate_fetch_job()").fetchall() == [(42,)]


def assert_queue_is_in_its_schema(url: str) -> None:
    with psycopg.connect(url) as connection:
        kinds = connection.execute(
            "SELECT count(*) FILTER (WHERE relkind = 'r') FROM pg_class"
            " WHERE relnamespace = 'push_queue'::regnamespace AND relname LIKE 'procrastinate%'"
        ).fetchone()
        functions = connection.execute(
            "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'push_queue'::regnamespace"
        ).fetchall()
    assert kinds is not None
    assert kinds[0] >= 4
    assert len(functions) > 10
    assert [name for name, config in functions if config != ["search_path=push_queue"]] == []


@postgresql_only
def test_a_lock_timeout_is_a_one_line_error(url: str, app: Flask, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    (folder / "versions" / "9999_test.py").write_text(
        "from alembic import op\n"
        f'revision, down_revision = "9999", "{head}"\n'
        "def upgrade():\n"
        "    op.execute(\"SET LOCAL lock_timeout = '100ms'\")\n"
        '    op.execute("ALTER TABLE push_subscriptions ADD COLUMN test integer")\n'
    )
    with app.app_context():
        upgrade()
    with psycopg.connect(url) as connection:
        connection.execute("SELECT * FROM push_subscriptions")  # locks the table until the end of the block
        done = flask("db", "upgrade", "--directory", str(folder), url=url, folder=tmp_path)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].endswith("lock timeout: a table is in use; retry later")
    assert "Traceback" not in done.stderr
    with app.app_context():
        upgrade(directory=str(folder))


@pytest.mark.parametrize(
    ("revision", "status"),
    [
        ("0001", 503),
        ("0002", 503),
        ("0005", 503),
        ("0006", 200),
        ("9999", 200),
        (None, 503),
        ("0000", 503),
        ("x", 503),
    ],
)
def test_a_database_is_ready_from_the_oldest_compatible_revision_on(
    url: str, app: Flask, revision: str | None, status: int
) -> None:
    assert OLDEST_REVISION == "0006"
    with app.app_context():
        upgrade()
        with push_engine().begin() as connection:
            connection.execute(text("DELETE FROM push_alembic_version"))
            if revision:
                connection.execute(text(f"INSERT INTO push_alembic_version VALUES ('{revision}')"))
    response = app.test_client().get("/readyz")
    assert response.status_code == status
    if status == 503:
        assert int(response.headers["Retry-After"]) > 0


def test_a_database_without_tables_is_not_ready(url: str, app: Flask) -> None:
    assert app.test_client().get("/readyz").status_code == 503


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_the_migrated_database_of_the_tests_is_ready(make_app: Callable[..., Flask]) -> None:
    assert make_app().test_client().get("/readyz").status_code == 200
