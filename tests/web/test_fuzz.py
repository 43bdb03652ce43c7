"""Property-based tests: no input may cause a 5xx. The slow ones have more examples, and all routes."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from pushapp import create_app
from pushapp.database import engine
from tests.conftest import SETTINGS, migrate, signed_in
from tests.support.http import post_raw
from tests.support.openapi import openapi_site, run_schemathesis
from tests.support.push_server import PushServer
from tests.support.subscriptions import subscription

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters())  # lone surrogates and NUL included
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=9,
)
ENDPOINTS = st.text(max_size=40).map(lambda text: f"https://{text}") | st.from_regex(
    r"https://[!-~]{1,60}", fullmatch=True
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "endpoint": st.just("https://push.example.net/1") | ENDPOINTS | VALUES,
        "expirationTime": st.integers(-(10**20), 10**20) | VALUES,
        "keys": st.fixed_dictionaries(
            {"p256dh": st.just(subscription()["keys"]["p256dh"]) | st.text() | VALUES},
            optional={"auth": st.just("A" * 22) | st.text() | VALUES},
        )
        | VALUES,
    },
)


BYTES = st.binary(max_size=300) | st.text(max_size=300).map(str.encode)
HEADERS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=";"), max_size=80)
FAST, SLOW = 60, 400  # examples

slow = pytest.mark.slow


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=slow)])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """A signed-in browser, on a database of this module."""
    folder = tmp_path_factory.mktemp("fuzz")
    if request.param == "sqlite":
        url = f"sqlite:///{folder}/fuzz.db"
    else:
        url = request.getfixturevalue("server").create_database("fuzz")
    migrate(url, folder)
    settings = SETTINGS | {"SQLALCHEMY_DATABASE_URI": url, "PUSH_API_TOKENS": ["token"]}
    app = create_app(settings, instance_path=str(folder))
    yield signed_in(app, "fuzzer")
    with app.app_context():
        engine().dispose()


def check_body(client: FlaskClient, path: str, body: Any) -> None:
    response = client.post(path, data=json.dumps(body), content_type="application/json")
    assert response.status_code in (200, 422), response.text
    assert response.status_code == 200 or response.get_json()["errors"]["json"]


def check_bytes(client: FlaskClient, data: bytes) -> None:
    response = post_raw(client, data)
    assert response.status_code in (400, 422), response.text


def check_headers(client: FlaskClient, value: str) -> None:
    unauthenticated = client.application.test_client()
    unauthenticated.set_cookie("access_token", value)
    assert unauthenticated.get("/push/subscriptions").status_code == 401
    headers = {"Origin": value, "Sec-Fetch-Mode": value, "Host": "localhost"}
    assert client.delete("/push/subscriptions/1", headers=headers).status_code in (400, 403)


@pytest.mark.parametrize("path", ["/push/subscribe", "/push/unsubscribe"])
@settings(max_examples=FAST)
@given(body=BODIES | VALUES)
def test_any_json_body_is_stored_or_rejected(client: FlaskClient, path: str, body: Any) -> None:
    check_body(client, path, body)


@settings(max_examples=FAST)
@given(data=BYTES)
def test_any_bytes_are_rejected(client: FlaskClient, data: bytes) -> None:
    check_bytes(client, data)


@settings(max_examples=FAST)
@given(value=HEADERS)
def test_any_cookie_or_header_is_rejected(client: FlaskClient, value: str) -> None:
    check_headers(client, value)


@slow
@settings(max_examples=SLOW)
@given(body=BODIES | VALUES, path=st.sampled_from(["/push/subscribe", "/push/unsubscribe"]))
def test_more_json_bodies(client: FlaskClient, path: str, body: Any) -> None:
    check_body(client, path, body)


@slow
@settings(max_examples=SLOW)
@given(data=BYTES)
def test_more_bytes(client: FlaskClient, data: bytes) -> None:
    check_bytes(client, data)


@slow
@settings(max_examples=SLOW)
@given(value=HEADERS)
def test_more_cookies_and_headers(client: FlaskClient, value: str) -> None:
    check_headers(client, value)


@slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_every_route_conforms_to_its_description(
    request: pytest.FixtureRequest, tmp_path: Path, push_server: PushServer, database: str
) -> None:
    url = f"sqlite:///{tmp_path}/openapi.db"
    if database == "postgresql":
        url = request.getfixturevalue("server").create_database(tmp_path.name)
    migrate(url, tmp_path)
    site = openapi_site(url, tmp_path, push_server.origin)
    with site.gunicorn(stdout=subprocess.DEVNULL):
        done = run_schemathesis(site, push_server.origin, "--generation-deterministic")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 20" in done.stdout
