"""Settings: where they come from, and the one line that says what is wrong with them."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from pushapp import ConfigurationError, create_app
from pushapp.config import database_url
from pushapp.extensions import db
from pushapp.instance import load_or_create_secret
from pushapp.webpush.vapid import generate_key_pair

ROOT = Path(__file__).parent.parent
KEY = generate_key_pair()
SERVER = "postgresql://nobody@127.0.0.1:1/nothing"
COMPLETE = {"DATABASE_URL": SERVER, "SECRET_KEY": "x", "FLASK_PUSH_VAPID_PRIVATE_KEY": KEY.private}


def made(monkeypatch: pytest.MonkeyPatch, folder: Path, environment: dict[str, str]) -> Flask:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    app = create_app(instance_path=str(folder))
    with app.app_context():
        db.engine.dispose()
    return app


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://a:b@h/d", "postgresql+psycopg://a:b@h/d"),
        ("postgresql://a:b@h/d?sslmode=require", "postgresql+psycopg://a:b@h/d?sslmode=require"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
        ("sqlite:///x.db", "sqlite:///x.db"),
    ],
)
def test_a_database_url_is_taken_as_platforms_write_it(url: str, expected: str) -> None:
    assert database_url(url).render_as_string(hide_password=False) == expected


class TestSecrets:
    def test_are_made_and_kept_beside_sqlite(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        first, second = (made(monkeypatch, tmp_path, {}) for _ in range(2))
        assert len(first.config["SECRET_KEY"]) >= 32
        assert first.config["SECRET_KEY"] == second.config["SECRET_KEY"]
        assert (
            first.extensions["push_vapid_signer"].public_key
            == second.extensions["push_vapid_signer"].public_key
        )
        for name in ("secret_key", "vapid_private_key"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600

    def test_are_the_same_for_all_who_make_them_at_once(self, tmp_path: Path) -> None:
        app = Flask("x", instance_path=str(tmp_path / "instance"))
        start = threading.Barrier(8)
        kept = []

        def keep() -> None:
            start.wait()
            kept.append(load_or_create_secret(app, "secret", lambda: os.urandom(16).hex()))

        threads = [threading.Thread(target=keep) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(kept)) == 1
        assert os.listdir(tmp_path / "instance") == ["secret"]

    def test_are_never_taken_for_numbers(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("SECRET_KEY", "FLASK_SECRET_KEY"):
            app = made(monkeypatch, tmp_path, {name: "0123456789"})
            assert app.config["SECRET_KEY"] == "0123456789"


@pytest.mark.parametrize(
    "subject", ["mailto:you@site.org", "https://site.org", "https://push.site.org:8443/contact"]
)
def test_a_subject_that_push_services_take_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, subject: str
) -> None:
    app = made(monkeypatch, tmp_path, {"FLASK_PUSH_VAPID_SUBJECT": subject})
    assert app.config["PUSH_VAPID_SUBJECT"] == subject


class TestTheEnvironment:
    def test_sets_what_flask_names(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        app = made(
            monkeypatch,
            tmp_path,
            {
                "FLASK_PUSH_TRUSTED_PUSH_SERVICES": '["http://127.0.0.1:8765", "HTTPS://Push.Internal:443"]',
                "FLASK_PUSH_ALLOWED_ORIGINS": '["https://app.example.com"]',
                "FLASK_PUSH_MAX_SUBSCRIPTIONS_PER_USER": "7",
                "FLASK_PUSH_BROWSER_HAS_ONE_USER": "false",
                "FLASK_SECRET_KEY_FALLBACKS": '["old"]',
            },
        )
        assert app.config["PUSH_TRUSTED_PUSH_SERVICES"] == ["http://127.0.0.1:8765", "https://push.internal"]
        assert app.config["PUSH_ALLOWED_ORIGINS"] == ["https://app.example.com"]
        assert app.config["PUSH_MAX_SUBSCRIPTIONS_PER_USER"] == 7
        assert app.config["PUSH_BROWSER_HAS_ONE_USER"] is False
        assert app.config["SECRET_KEY_FALLBACKS"] == ["old"]

    @pytest.mark.parametrize(("text", "value"), [("True", True), ("False", False), ("1", True), ("0", False)])
    def test_spells_booleans_as_people_do(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, value: bool
    ) -> None:
        app = made(monkeypatch, tmp_path, {"FLASK_PUSH_BROWSER_HAS_ONE_USER": text})
        assert app.config["PUSH_BROWSER_HAS_ONE_USER"] is value


WRONG_SUBJECTS = (
    "you@site.org", "http://site.org", "mailto:", "mailto:you", "mailto:you@localhost", "mailto:you@site",
    "mailto:you@example.com", "mailto:you@mail.example.org", "mailto: you@site.org", "https://localhost",
    "https://127.0.0.1", "https://site.invalid", "https://site.test/", "https://you@site.org", "7",
)  # fmt: skip
REFUSALS = [
    ({"SECRET_KEY": ""}, "SECRET_KEY is not set"),
    ({"FLASK_PUSH_VAPID_PRIVATE_KEY": ""}, "PUSH_VAPID_PRIVATE_KEY is not set"),
    ({"FLASK_PUSH_VAPID_PRIVATE_KEY": "x"}, "PUSH_VAPID_PRIVATE_KEY must be"),
    ({"FLASK_PUSH_VAPID_PRIVATE_KEY": KEY.public}, "PUSH_VAPID_PRIVATE_KEY must be"),
    ({"FLASK_PUSH_VAPID_PRIVATE_KEY": "A" * 43}, "PUSH_VAPID_PRIVATE_KEY must be"),
    ({"FLASK_PUSH_VAPID_PRIVATE_KEY": "_" * 43}, "PUSH_VAPID_PRIVATE_KEY must be"),
    ({"DATABASE_URL": "mysql://h/d"}, "only postgresql and sqlite are supported"),
    ({"DATABASE_URL": "postgresql+psycopg2://h/d"}, "only postgresql and sqlite are supported"),
    ({"DATABASE_URL": "my database"}, "DATABASE_URL is not a database URL"),
    ({"DATABASE_URL": "postgresql://h:port/d"}, "DATABASE_URL is not a database URL"),
    ({"FLASK_PUSH_DEMO": "true"}, "demo mode"),
    ({"FLASK_PUSH_DEMO": "perhaps"}, "PUSH_DEMO must be true or false"),
    ({"FLASK_PUSH_BROWSER_HAS_ONE_USER": "2"}, "PUSH_BROWSER_HAS_ONE_USER must be true or false"),
    ({"FLASK_PUSH_MAX_SUBSCRIPTIONS_PER_USER": "0"}, "PUSH_MAX_SUBSCRIPTIONS_PER_USER must be"),
    ({"FLASK_PUSH_MAX_SUBSCRIPTIONS_PER_USER": "many"}, "PUSH_MAX_SUBSCRIPTIONS_PER_USER must be"),
    ({"FLASK_PUSH_ALLOWED_ORIGINS": "https://a.example"}, "PUSH_ALLOWED_ORIGINS must be a list"),
    ({"FLASK_PUSH_ALLOWED_ORIGINS": '["*"]'}, "'*' is not an origin"),
    ({"FLASK_PUSH_TRUSTED_PUSH_SERVICES": '["push.internal"]'}, "'push.internal' is not an origin"),
    ({"FLASK_PUSH_SESSION_USER_KEY": ""}, "PUSH_SESSION_USER_KEY must be"),
    ({"FLASK_PUSH_API_TOKENS": "token"}, "PUSH_API_TOKENS must be a list"),
    ({"FLASK_PUSH_API_TOKENS": '[""]'}, "PUSH_API_TOKENS must be a list"),
    ({"FLASK_PUSH_METRICS": "maybe"}, "PUSH_METRICS must be true or false"),
    *[({"FLASK_PUSH_VAPID_SUBJECT": subject}, "PUSH_VAPID_SUBJECT must be") for subject in WRONG_SUBJECTS],
]


@pytest.mark.parametrize(("environment", "message"), REFUSALS)
def test_a_mistake_stops_the_start_and_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        made(monkeypatch, tmp_path, COMPLETE | environment)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    for secret in ("FLASK_PUSH_VAPID_PRIVATE_KEY", "SECRET_KEY"):
        assert len(value := environment.get(secret, "")) < 2 or value not in str(refusal.value)


@pytest.mark.parametrize(
    "program",
    [
        ["flask", "--app", "wsgi", "routes"],
        ["gunicorn", "wsgi:app", "--no-control-socket", "-b", "127.0.0.1:0"],
        ["python", "-c", "import wsgi"],
    ],
)
def test_a_mistake_is_one_line_in_every_program(program: list[str]) -> None:
    command = [sys.executable] if program[0] == "python" else [sys.executable, "-m", program[0]]
    environment = COMPLETE | {"PATH": os.environ["PATH"], "SECRET_KEY": ""}
    done: Any = subprocess.run(
        [*command, *program[1:]], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert done.stderr.count("pushapp: SECRET_KEY is not set") == 1
    assert "Traceback" not in done.stderr
