"""`flask db …`, as developers and deployers run it, from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from .conftest import SETTINGS

TABLES = {"push_subscriptions", "push_failures", "push_messages", "push_slices", "push_outcomes"}
ROOT = Path(__file__).parent.parent


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/pushapp.db"
    url: str = request.getfixturevalue("server").create_database(tmp_path.name)
    return url


def flask(*arguments: str, url: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": url,
        "SECRET_KEY": str(SETTINGS["SECRET_KEY"]),
        "FLASK_PUSH_VAPID_PRIVATE_KEY": str(SETTINGS["PUSH_VAPID_PRIVATE_KEY"]),
    }
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", ROOT / "wsgi.py", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def tables(url: str) -> set[str]:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        return set(inspect(engine).get_table_names()) - {"alembic_version", "sqlite_sequence"}
    finally:
        engine.dispose()


def test_go_up_and_down_from_any_folder(url: str, tmp_path: Path) -> None:
    for _ in range(2):
        for command, expected in (("upgrade", TABLES), ("downgrade", set())):
            done = flask(
                "db", command, *(["base"] if command == "downgrade" else []), url=url, folder=tmp_path
            )
            assert done.returncode == 0, done.stderr
            assert {name for name in tables(url) if not name.startswith("procrastinate_")} == expected


def test_the_first_one_alone_leaves_the_queue_out(url: str, tmp_path: Path) -> None:
    assert flask("db", "upgrade", url=url, folder=tmp_path).returncode == 0
    done = flask("db", "downgrade", "0001", url=url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tables(url) == {"push_subscriptions"}
    assert flask("db", "upgrade", url=url, folder=tmp_path).returncode == 0


def test_leave_the_models_as_the_code_knows_them(url: str, tmp_path: Path) -> None:
    assert flask("db", "upgrade", url=url, folder=tmp_path).returncode == 0
    done = flask("db", "check", url=url, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_notice_a_table_that_is_not_as_the_code_knows_it(url: str, tmp_path: Path) -> None:
    assert flask("db", "upgrade", url=url, folder=tmp_path).returncode == 0
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_push_subscriptions_endpoint"))
    engine.dispose()
    assert flask("db", "check", url=url, folder=tmp_path).returncode != 0


def test_print_their_sql(url: str, tmp_path: Path) -> None:
    done = flask("db", "upgrade", "--sql", url=url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CREATE TABLE push_subscriptions" in done.stdout
    assert tables(url) == set()
