"""`flask push check`: a line for each check, and an exit status for deployments."""

import datetime as clock
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import text

from pushapp import create_app, init_app
from pushapp.database import engine
from pushapp.diagnostics import checks
from tests.conftest import SETTINGS
from tests.support.operators import check, to_fix
from tests.support.postgresql import PostgreSQL
from tests.support.sending import execute, queued_only

TOKEN = "a token of more than sixteen characters"


def start_worker(app: Flask, age: str = "0 seconds") -> None:
    """Store the heartbeat of a worker."""
    with app.app_context():
        if engine().dialect.name == "sqlite":
            return
    values = f"VALUES (now() - interval '{age}')"
    execute(app, f"INSERT INTO push_queue.procrastinate_workers (last_heartbeat) {values}")


def test_a_good_deployment_has_only_ok_lines(make_app: Callable[..., Flask]) -> None:
    app = make_app(PUSH_API_TOKENS=[TOKEN])
    start_worker(app)
    done = check(app)
    assert to_fix(done) == []
    assert "ok   migrations: at " in done.stdout
    assert TOKEN not in done.stdout
    assert str(SETTINGS["PUSH_VAPID_PRIVATE_KEY"]) not in done.stdout


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"PUSH_VAPID_SUBJECT": None}, "set your contact"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY has 5 characters"),
        ({"PUSH_API_TOKENS": [TOKEN, "short"]}, "PUSH_API_TOKENS has a token of less than 16 characters"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_weak_setting_is_named(
    make_app: Callable[..., Flask], settings: dict[str, object], text: str
) -> None:
    (found,) = to_fix(check(make_app(**settings)))
    assert text in found


def test_the_default_database_and_the_demo_are_for_development_only(tmp_path: Path) -> None:
    app = create_app(SETTINGS, instance_path=str(tmp_path))
    found = to_fix(check(app))
    assert found[0].startswith("DATABASE_URL is not set, so the data is in ")
    assert str(tmp_path) in found[0]
    app.config["PUSH_DEMO"] = True
    assert to_fix(check(app))[0].startswith("PUSH_DEMO signs anyone in")
    with app.app_context():
        engine().dispose()


def test_a_host_without_sessions_needs_no_secret(tmp_path: Path) -> None:
    settings = {key: value for key, value in SETTINGS.items() if key != "SECRET_KEY"}
    url = f"sqlite:///{tmp_path}/host.db"
    for user_id, expected in (
        (lambda: "alice", "ok   sign-in: by user_id"),
        (None, "fix  SECRET_KEY is not set"),
    ):
        app = Flask("host", instance_path=str(tmp_path))
        app.config.update(settings, SQLALCHEMY_DATABASE_URI=url)
        init_app(app, user_id=user_id)
        assert expected in check(app).stdout
        with app.app_context():
            engine().dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_database_without_tables_has_to_be_upgraded(kind: str, server: PostgreSQL, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db" if kind == "sqlite" else server.create_database(tmp_path.name)
    app = create_app(SETTINGS | {"SQLALCHEMY_DATABASE_URI": url}, instance_path=str(tmp_path))
    (found,) = to_fix(check(app))
    assert found == "the database has no tables of pushapp's: run `flask push db upgrade`"
    assert app.test_cli_runner().invoke(args=["push", "db", "upgrade", "0001"]).exit_code == 0
    found = to_fix(check(app))[0]
    assert found.startswith("the database is at migration 0001, this version's newest is ")
    with app.app_context():
        with engine().begin() as connection:
            connection.execute(text("UPDATE push_alembic_version SET version_num = '9999'"))
        assert "ok   migrations: at 9999, newer than this version's " in check(app).stdout
        engine().dispose()


def test_an_unavailable_database_is_one_line_among_the_others(tmp_path: Path) -> None:
    url = "postgresql://user:password@127.0.0.1:1/name"
    app = create_app(SETTINGS | {"SQLALCHEMY_DATABASE_URI": url}, instance_path=str(tmp_path))
    done = check(app)
    (found,) = to_fix(done)
    assert found.startswith(
        "the database name at 127.0.0.1 is unavailable: start it, or correct DATABASE_URL ("
    )
    assert "Connection refused" in found
    assert "password" not in done.output
    assert "ok   VAPID: " in done.stdout


@queued_only
def test_a_deployment_without_a_living_worker_has_to_start_one(app: Flask) -> None:
    start_worker(app, "1 minute")
    assert to_fix(check(app)) == ["no worker is alive, so messages stay queued: start `flask push worker`"]
    start_worker(app)
    assert "ok   workers: 1 alive" in check(app).stdout


@queued_only
@pytest.mark.parametrize(("seconds", "direction"), [(60, "ahead of"), (-60, "behind")])
def test_a_wrong_clock_is_told(
    app: Flask, seconds: int, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WrongClock(clock.datetime):
        @classmethod
        def now(cls, tz: clock.tzinfo | None = None) -> clock.datetime:  # type: ignore[override]  # not Self
            return clock.datetime.now(tz) + clock.timedelta(seconds=seconds)

    start_worker(app)
    monkeypatch.setattr(checks, "datetime", WrongClock)
    assert to_fix(check(app)) == [f"this machine's clock is 60 s {direction} the database's: set both by NTP"]
