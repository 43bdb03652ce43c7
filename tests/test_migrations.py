"""`flask db …`, as developers and deployers run it, from any folder."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from pushapp.extensions import db
from tests.conftest import SETTINGS

TABLES = {"push_subscriptions", "push_failures", "push_messages", "push_batches", "push_outcomes"}
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


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_one_row_for_a_user_and_an_endpoint_holds_at_every_step(url: str, tmp_path: Path) -> None:
    insert = text(
        "INSERT INTO push_subscriptions (user_id, endpoint, keys_p256dh, keys_auth)"
        " VALUES ('alice', :endpoint, '', '')"
    )
    assert flask("db", "upgrade", "0001", url=url, folder=tmp_path).returncode == 0
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    endpoint = {"endpoint": "https://push.example.net/\\x5c\\"}
    with engine.begin() as connection:
        connection.execute(insert, endpoint)
    for arguments in (["upgrade", "0003"], ["upgrade"], ["downgrade", "0003"], ["downgrade", "0002"]):
        done = flask("db", *arguments, url=url, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(insert, endpoint)
    engine.dispose()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_say_in_one_line_that_a_table_is_in_use(url: str, tmp_path: Path) -> None:
    assert flask("db", "upgrade", "0003", url=url, folder=tmp_path).returncode == 0
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        connection.execute(text("SELECT * FROM push_subscriptions"))  # and the transaction stays open
        done = flask("db", "upgrade", url=url, folder=tmp_path)
        assert done.returncode != 0
        assert (
            done.stderr.strip()
            .splitlines()[-1]
            .endswith("is in use by somebody for long: run this again later")
        )
    engine.dispose()
    assert flask("db", "upgrade", url=url, folder=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("revision", "status"),
    [
        (None, 503),
        ("0001", 503),
        ("0002", 503),
        ("0003", 200),
        ("0004", 200),
        ("0005", 200),
        ("0000", 503),
        ("x", 503),
    ],
)
def test_are_ready_where_the_schema_serves_this_code(
    make_app: Callable[..., Flask], revision: str | None, status: int
) -> None:
    client = make_app().test_client()
    with client.application.app_context(), db.engine.begin() as connection:
        kept = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        connection.execute(text("DELETE FROM alembic_version"))
        if revision:
            connection.execute(text(f"INSERT INTO alembic_version VALUES ('{revision}')"))
    try:
        assert client.get("/readyz").status_code == status
    finally:
        with client.application.app_context(), db.engine.begin() as connection:
            connection.execute(text("DELETE FROM alembic_version"))
            connection.execute(text(f"INSERT INTO alembic_version VALUES ('{kept}')"))


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
