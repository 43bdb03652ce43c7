"""The checks of settings in a host: each invalid setting is one line, and each valid setting is accepted."""

import math
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from pushapp import ConfigurationError, init_app
from pushapp.config import FLASK_CHECKS, SETTINGS
from pushapp.database import engine
from pushapp.testing import create_tables

Hosts = Any


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Hosts]:
    """Create hosts with settings of `app.config`, on SQLite in memory."""
    apps = []

    def make(**settings: object) -> Flask:
        app = Flask("host", instance_path=str(tmp_path))
        app.config.update({"SECRET_KEY": "x", "SQLALCHEMY_DATABASE_URI": "sqlite://"} | settings)
        init_app(app)
        apps.append(app)
        return app

    yield make
    for app in apps:
        with app.app_context():
            engine().dispose()


INVALID: list[tuple[str, str, tuple[object, ...]]] = [
    ("SECRET_KEY_FALLBACKS", "must be a list of secrets", ("old", b"old", 5, [5], [""], ["old", None], {"a": 1}, True)),
    ("SECRET_KEY", "must be a text", (5, 1.5, ["x"], True)),
    ("SESSION_COOKIE_SECURE", "must be true or false", ("no", "yes", "", 2, None, [])),
    ("SESSION_COOKIE_HTTPONLY", "must be true or false", ("off", "n")),
    ("SESSION_COOKIE_PARTITIONED", "must be true or false", ("off", "n")),
    ("SESSION_REFRESH_EACH_REQUEST", "must be true or false", ("never", "n")),
    ("SESSION_COOKIE_SAMESITE", "must be Lax, Strict or None", ("foo", "", "LaxStrict", True, 5)),
    ("SESSION_COOKIE_NAME", "must be a text", ("", None, 5, b"x")),
    ("SESSION_COOKIE_DOMAIN", "must be a text", (5, ["example.com"], True)),
    ("SESSION_COOKIE_PATH", "must be a text", (5, ["/"], True)),
    ("PERMANENT_SESSION_LIFETIME", "must be a number of seconds", ("abc", "5", None, True, -1, 10**30, math.inf, math.nan, Decimal(5), [])),
    ("PUSH_OPENAPI_URL_PREFIX", "must be a path that begins with /", (5, "", "x", True, ["/"])),
    ("PUSH_PREPARE_THRESHOLD", "must be an integer of at least 0, or null for never", (-1, "x", "5", 1.5, True, [])),
    ("PUSH_BROWSER_HAS_ONE_USER", "must be true or false", ("no", 2, None)),
    ("PUSH_SUPPRESS_SEND", "must be true or false", ("no", 2, "")),
    ("PUSH_MESSAGE_RETENTION_DAYS", "must be an integer of at least 1", (0, -1, 1.5, "30", True, None)),
    ("PUSH_MAX_SUBSCRIPTIONS_PER_USER", "must be an integer of at least 1", (0, "5", 1.5, True, None)),
    ("PUSH_RECEIPTS", "must be true or false", ("no", 2, None)),
    ("PUSH_PROXY", "PUSH_PROXY must be the http://, https:// or socks5h:// URL of a proxy", ("", 5, "proxy:3128", "socks5://proxy", "ftp://proxy", "http://", "http://:3128", "http://proxy:0", "http://proxy:99999", "http://proxy:x", "http://proxy/path", "http://proxy?x", "http://proxy#x", "http://pro\nxy", "http://pröxy", "http://[::1", ["http://proxy"])),
    ("PUSH_SESSION_USER_KEY", "must be a text", ("", None, 5)),
    ("PUSH_API_TOKENS", "must be a list of texts", ("token", [""], [5], None, {"token"}, [b"token"])),
    ("PUSH_ALLOWED_ORIGINS", "PUSH_ALLOWED_ORIGINS", ("https://a.example", ["*"], ["a.example"], [5], None, ["https://a.example/path"])),
    ("PUSH_TRUSTED_PUSH_SERVICES", "PUSH_TRUSTED_PUSH_SERVICES", ("https://a.example", ["*"], [5], None)),
    ("PUSH_CHANNELS", "PUSH_CHANNELS must be a list of names", ("news", [""], ["News"], ["a b"], ["x" * 65], [5], None)),
    ("PUSH_SITE_URL", "PUSH_SITE_URL must be your site's origin", ("", 5, "example.com", "http://example.com", "https://example.com/shop", "https://u@example.com", ["https://example.com"])),
    ("PUSH_VAPID_PRIVATE_KEY", "PUSH_VAPID_PRIVATE_KEY must be", ("x", 5, b"x", ["x"])),
    ("PUSH_VAPID_PRIVATE_KEY_FALLBACKS", "PUSH_VAPID_PRIVATE_KEY_FALLBACKS must be a list of", ("x", 5, None, ["x"], [5], [None], [[]], {"a": 1})),
    ("PUSH_WEBHOOK_SECRET", "must be whsec_ and the base64", ("", 5, "x", "whsec_", "whsec_x", "whsec_" + "A" * 28, "whsec_" + "A" * 100, "A" * 43 + "=", b"whsec_")),
    ("PUSH_WEBHOOK_URL", "must be an http or https URL", ("", 5, "example.com", "ftp://example.com/", "https://", "https://user@example.com/", "https://exa mple.com/", "https://example.com/ü", "http://example.com:0/", ["https://example.com/"])),
    ("PUSH_VAPID_SUBJECT", "PUSH_VAPID_SUBJECT must be", ("x", "", 5, ["mailto:you@site.org"])),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [(name, value, message) for name, message, values in INVALID for value in values],
)
def test_an_invalid_setting_is_one_line(make: Hosts, name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigurationError) as rejection:
        make(**{name: value})
    assert name in rejection.value.message
    assert message in rejection.value.message
    assert len(rejection.value.message.splitlines()) == 1


def test_every_setting_with_a_check_has_an_invalid_value_here() -> None:
    assert {name for name, _, _ in INVALID} >= {*SETTINGS, *FLASK_CHECKS} - {"PUSH_DEMO", "PUSH_METRICS"}


VALID = [
    *[("SECRET_KEY_FALLBACKS", value, value) for value in (None, [], ["old", b"older"])],
    ("SECRET_KEY_FALLBACKS", ("old",), ["old"]),
    ("SECRET_KEY", b"bytes", b"bytes"),
    ("SESSION_COOKIE_SECURE", "true", True),
    *[("SESSION_COOKIE_SECURE", value, bool(value)) for value in (True, False, 0, 1)],
    *[("SESSION_COOKIE_SAMESITE", value, value) for value in (None, "Lax", "Strict", "None")],
    *[("SESSION_COOKIE_SAMESITE", value, value.title()) for value in ("lax", "STRICT", "none")],
    *[("SESSION_COOKIE_DOMAIN", value, None) for value in (None, False, "")],
    ("SESSION_COOKIE_DOMAIN", "example.com", "example.com"),
    *[("SESSION_COOKIE_PATH", value, None) for value in (None, "")],
    ("SESSION_COOKIE_PATH", "/shop", "/shop"),
    ("PERMANENT_SESSION_LIFETIME", 3600, timedelta(hours=1)),
    ("PERMANENT_SESSION_LIFETIME", 0.5, timedelta(seconds=0.5)),
    ("PERMANENT_SESSION_LIFETIME", timedelta(days=3), timedelta(days=3)),
    *[("PUSH_OPENAPI_URL_PREFIX", value, value) for value in (None, "/", "/api")],
    *[("PUSH_PREPARE_THRESHOLD", value, value) for value in (None, 0, 1, 100)],
    ("PUSH_ALLOWED_ORIGINS", {"HTTPS://A.example:443"}, ["https://a.example"]),
    ("PUSH_API_TOKENS", ("token",), ["token"]),
    ("PUSH_CHANNELS", ("news", "a.b_c-9", "news"), ["news", "a.b_c-9"]),
    ("PUSH_PROXY", None, None),
    *[
        ("PUSH_PROXY", url, url)
        for url in ("http://proxy.example.com:3128", "https://user:p%40ss@proxy", "socks5h://[::1]:1080/")
    ],
    ("PUSH_SITE_URL", "HTTPS://Example.com:443", "https://example.com"),
    *[
        ("PUSH_SITE_URL", url, url)
        for url in (None, "http://localhost:5000", "http://127.0.0.1", "http://[::1]:1")
    ],
]


@pytest.mark.parametrize(("name", "value", "expected"), VALID)
def test_a_valid_setting_is_accepted_and_works(
    make: Hosts, name: str, value: object, expected: object
) -> None:
    app = make(**{name: value})
    assert app.config[name] == expected
    create_tables(app)
    client = app.test_client()
    with client.session_transaction(base_url="https://example.com/shop") as session:
        session.permanent = True
        session["user_id"] = "alice"
    response = client.get("/push/subscriptions", base_url="https://example.com/shop")
    assert response.status_code in (200, 401)  # 401 where the cookie is not for this host or path


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [
        ("PUSH_VAPID_SUBJEKT", "PUSH_VAPID_SUBJECT"),
        ("PUSH_API_TOKEN", "PUSH_API_TOKENS"),
        ("PUSH_VAPID_PRIVATEKEY", "PUSH_VAPID_PRIVATE_KEY"),
        ("PUSH_ALLOWED_ORIGIN", "PUSH_ALLOWED_ORIGINS"),
        ("PUSH_MAX_SUBSCRIPTIONS", "PUSH_MAX_SUBSCRIPTIONS_PER_USER"),
        ("PUSH_PREPARE_TRESHOLD", "PUSH_PREPARE_THRESHOLD"),
        ("PUSH_OPENAPI_PREFIX", "PUSH_OPENAPI_URL_PREFIX"),
        ("PUSH_METRIC", "PUSH_METRICS"),
    ],
)
@pytest.mark.parametrize("is_in_environment", [True, False])
def test_a_misspelt_setting_is_named_with_the_nearest(
    make: Hosts, monkeypatch: pytest.MonkeyPatch, misspelt: str, nearest: str, is_in_environment: bool
) -> None:
    settings = {misspelt: "x"}
    if is_in_environment:
        monkeypatch.setenv(f"FLASK_{misspelt}", "x")
        settings = {}
    with pytest.raises(ConfigurationError) as rejection:
        make(**settings)
    assert rejection.value.message == f"{misspelt} is not a setting: did you mean {nearest}?"


def test_settings_come_from_the_config_and_else_from_the_environment(
    make: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {
        "PUSH_API_TOKENS": ('["a"]', ["a"]),
        "PUSH_ALLOWED_ORIGINS": ('["https://a.example"]', ["https://a.example"]),
        "PUSH_BROWSER_HAS_ONE_USER": ("false", False),
        "PUSH_MAX_SUBSCRIPTIONS_PER_USER": ("7", 7),
        "PUSH_PREPARE_THRESHOLD": ("null", None),
        "PUSH_SESSION_USER_KEY": ("_user_id", "_user_id"),
        "PUSH_VAPID_SUBJECT": ("mailto:you@site.org", "mailto:you@site.org"),
    }
    for name, (text, _) in environment.items():
        monkeypatch.setenv(f"FLASK_{name}", text)
    app = make(PUSH_API_TOKENS=["b"])
    expected = {name: value for name, (_, value) in environment.items()} | {"PUSH_API_TOKENS": ["b"]}
    assert {name: app.config[name] for name in expected} == expected


def test_settings_of_the_hosts_session_are_not_read_from_the_environment(
    make: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_SECRET_KEY_FALLBACKS", "not a list")
    monkeypatch.setenv("FLASK_SECRET_KEY", "another")
    app = make()
    assert (app.config["SECRET_KEY"], app.config["SECRET_KEY_FALLBACKS"]) == ("x", None)


def test_only_listed_secrets_sign_in(make: Hosts) -> None:
    app = make(SECRET_KEY_FALLBACKS=["myoldsecret"])
    create_tables(app)
    for secret, status in (("x", 200), ("myoldsecret", 200), ("m", 401), ("myoldsecre", 401)):
        signer = Flask("signer")
        signer.secret_key = secret
        serializer = SecureCookieSessionInterface().get_signing_serializer(signer)
        assert serializer is not None
        client = app.test_client()
        client.set_cookie("session", str(serializer.dumps({"user_id": "alice"})))
        assert client.get("/push/subscriptions").status_code == status
