"""Settings: their sources, and the one-line errors for invalid ones."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from flask import Flask

from pushapp import ConfigurationError, create_app, init_app
from pushapp.config import database_url
from pushapp.database import engine
from pushapp.instance import load_or_create_secret
from pushapp.webpush.vapid import generate_key_pair
from tests.support.threads import run_concurrently

ROOT = Path(__file__).parent.parent
KEY = generate_key_pair()
SERVER = "postgresql://user@127.0.0.1:1/name"
COMPLETE = {"DATABASE_URL": SERVER, "SECRET_KEY": "x", "FLASK_PUSH_VAPID_PRIVATE_KEY": KEY.private}


def create(monkeypatch: pytest.MonkeyPatch, folder: Path, environment: dict[str, str]) -> Flask:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    app = create_app(instance_path=str(folder))
    with app.app_context():
        engine().dispose()
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
def test_a_database_url_is_accepted_with_any_common_scheme(url: str, expected: str) -> None:
    assert database_url(url).render_as_string(hide_password=False) == expected


class TestSecrets:
    def test_are_generated_and_stored_on_sqlite(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        first, second = (create(monkeypatch, tmp_path, {}) for _ in range(2))
        assert len(first.config["SECRET_KEY"]) >= 32
        assert first.config["SECRET_KEY"] == second.config["SECRET_KEY"]
        assert (
            first.extensions["push_vapid_signers"].public_key
            == second.extensions["push_vapid_signers"].public_key
        )
        for name in ("secret_key", "vapid_private_key"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600

    def test_are_the_same_for_concurrent_processes(self, tmp_path: Path) -> None:
        app = Flask("x", instance_path=str(tmp_path / "instance"))

        def load() -> str:
            return load_or_create_secret(app, "secret", lambda: os.urandom(16).hex())

        assert len(set(run_concurrently(*[load] * 8))) == 1
        assert os.listdir(tmp_path / "instance") == ["secret"]

    def test_of_digits_stay_strings(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("SECRET_KEY", "FLASK_SECRET_KEY"):
            app = create(monkeypatch, tmp_path, {name: "0123456789"})
            assert app.config["SECRET_KEY"] == "0123456789"


@pytest.mark.parametrize(
    "subject", ["mailto:you@site.org", "https://site.org", "https://push.site.org:8443/contact"]
)
def test_a_subject_that_push_services_accept_is_valid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, subject: str
) -> None:
    app = create(monkeypatch, tmp_path, {"FLASK_PUSH_VAPID_SUBJECT": subject})
    assert app.config["PUSH_VAPID_SUBJECT"] == subject


class TestEnvironment:
    def test_sets_the_settings_with_flasks_prefix(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        app = create(
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
    def test_booleans_have_several_spellings(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, value: bool
    ) -> None:
        app = create(monkeypatch, tmp_path, {"FLASK_PUSH_BROWSER_HAS_ONE_USER": text})
        assert app.config["PUSH_BROWSER_HAS_ONE_USER"] is value


INVALID_SUBJECTS = (
    "you@site.org", "http://site.org", "mailto:", "mailto:you", "mailto:you@localhost", "mailto:you@site",
    "mailto:you@example.com", "mailto:you@mail.example.org", "mailto: you@site.org", "https://localhost",
    "https://127.0.0.1", "https://site.invalid", "https://site.test/", "https://you@site.org", "7",
)  # fmt: skip
INVALID_SETTINGS = [
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
    (
        {"FLASK_PUSH_VAPID_SUBJEKT": "x"},
        "PUSH_VAPID_SUBJEKT is not a setting: did you mean PUSH_VAPID_SUBJECT?",
    ),
    ({"FLASK_PUSH_API_TOKEN": "x"}, "did you mean PUSH_API_TOKENS?"),
    ({"FLASK_PUSH_OPENAPI_URL_PREFIX": "5"}, "PUSH_OPENAPI_URL_PREFIX must be a path"),
    (
        {"FLASK_PUSH_PREPARE_THRESHOLD": "-1"},
        "PUSH_PREPARE_THRESHOLD must be an integer of at least 0, or null",
    ),
    ({"FLASK_PUSH_PREPARE_THRESHOLD": "x"}, "PUSH_PREPARE_THRESHOLD must be"),
    ({"FLASK_SECRET_KEY_FALLBACKS": "myoldsecret"}, "SECRET_KEY_FALLBACKS must be a list of secrets"),
    ({"FLASK_SECRET_KEY_FALLBACKS": "5"}, "SECRET_KEY_FALLBACKS must be a list of secrets"),
    ({"FLASK_SECRET_KEY_FALLBACKS": '["old", 5]'}, "SECRET_KEY_FALLBACKS must be a list of secrets"),
    ({"FLASK_SECRET_KEY_FALLBACKS": '[""]'}, "SECRET_KEY_FALLBACKS must be a list of secrets"),
    ({"FLASK_PERMANENT_SESSION_LIFETIME": "abc"}, "PERMANENT_SESSION_LIFETIME must be"),
    ({"FLASK_PERMANENT_SESSION_LIFETIME": "9" * 30}, "PERMANENT_SESSION_LIFETIME must be"),
    ({"FLASK_SESSION_COOKIE_SECURE": "no"}, "SESSION_COOKIE_SECURE must be true or false"),
    ({"FLASK_SESSION_COOKIE_HTTPONLY": "no"}, "SESSION_COOKIE_HTTPONLY must be true or false"),
    ({"FLASK_SESSION_COOKIE_SAMESITE": "foo"}, "SESSION_COOKIE_SAMESITE must be"),
    ({"FLASK_SESSION_COOKIE_NAME": "5"}, "SESSION_COOKIE_NAME must be a text"),
    ({"FLASK_SESSION_COOKIE_DOMAIN": "5"}, "SESSION_COOKIE_DOMAIN must be a text"),
    *[({"FLASK_PUSH_VAPID_SUBJECT": subject}, "PUSH_VAPID_SUBJECT must be") for subject in INVALID_SUBJECTS],
]


@pytest.mark.parametrize(("environment", "message"), INVALID_SETTINGS)
def test_an_invalid_setting_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError) as rejection:
        create(monkeypatch, tmp_path, COMPLETE | environment)
    assert message in str(rejection.value)
    assert "\n" not in str(rejection.value)
    for secret in ("FLASK_PUSH_VAPID_PRIVATE_KEY", "SECRET_KEY"):
        assert len(value := environment.get(secret, "")) < 2 or value not in str(rejection.value)


@pytest.mark.parametrize(
    "program",
    [
        ["flask", "--app", "wsgi", "routes"],
        ["gunicorn", "wsgi:app", "--no-control-socket", "-b", "127.0.0.1:0"],
        ["python", "-c", "import wsgi"],
    ],
)
def test_an_invalid_setting_is_one_line_in_every_program(program: list[str]) -> None:
    command = [sys.executable] if program[0] == "python" else [sys.executable, "-m", program[0]]
    environment = COMPLETE | {"PATH": os.environ["PATH"], "SECRET_KEY": ""}
    done = subprocess.run(
        [*command, *program[1:]], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("pushapp: SECRET_KEY is not set") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("SESSION_COOKIE_SECURE", "False", False),
        ("SESSION_COOKIE_SAMESITE", "None", "None"),
        ("PUSH_PREPARE_THRESHOLD", "null", None),
        ("PUSH_PREPARE_THRESHOLD", "0", 0),
        ("PUSH_OPENAPI_URL_PREFIX", "/push", "/push"),
    ],
)
def test_a_valid_setting_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str, value: object
) -> None:
    assert create(monkeypatch, tmp_path, {f"FLASK_{name}": text}).config[name] == value


def test_a_hosts_settings_come_from_its_config_and_else_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLASK_PUSH_MAX_SUBSCRIPTIONS_PER_USER", "7")
    monkeypatch.setenv("FLASK_PUSH_API_TOKENS", '["from the environment"]')
    app = Flask("host", instance_path=str(tmp_path))
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", PUSH_API_TOKENS=["from the config"])
    init_app(app)
    with app.app_context():
        engine().dispose()
    assert app.config["PUSH_MAX_SUBSCRIPTIONS_PER_USER"] == 7
    assert app.config["PUSH_API_TOKENS"] == ["from the config"]
