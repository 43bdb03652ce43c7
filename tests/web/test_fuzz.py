"""Requests that nobody thought of: no input may end in a 5xx."""

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
from pushapp.extensions import db
from tests.conftest import SETTINGS, signed_in
from tests.support.openapi import ask, described_site
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


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def anybody(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlaskClient]:
    url = request.getfixturevalue(f"migrated_{request.param}")
    app = create_app(
        SETTINGS | {"SQLALCHEMY_DATABASE_URI": url, "PUSH_API_TOKENS": ["token"]},
        instance_path=str(tmp_path_factory.mktemp("fuzz")),
    )
    yield signed_in(app, "anybody")
    with app.app_context():
        db.engine.dispose()


@pytest.mark.parametrize("path", ["/push/subscribe", "/push/unsubscribe"])
@settings(max_examples=300)
@given(body=BODIES | VALUES)
def test_no_body_is_too_much(anybody: FlaskClient, path: str, body: Any) -> None:
    response = anybody.post(path, data=json.dumps(body), content_type="application/json")
    assert response.status_code in (200, 422), response.text
    assert response.status_code == 200 or response.json["errors"]["json"]


@settings(max_examples=200)
@given(data=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_are_too_much(anybody: FlaskClient, data: bytes) -> None:
    response = anybody.post("/push/subscribe", data=data, content_type="application/json")
    assert response.status_code in (400, 422), response.text


@settings(max_examples=200)
@given(text=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=";"), max_size=80))
def test_no_cookie_and_no_header_is_too_much(anybody: FlaskClient, text: str) -> None:
    nobody = anybody.application.test_client()
    nobody.set_cookie("access_token", text)
    assert nobody.get("/push/subscriptions").status_code == 401
    headers = {"Origin": text, "Sec-Fetch-Mode": text, "Host": "localhost"}
    assert anybody.delete("/push/subscriptions/1", headers=headers).status_code in (400, 403)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_every_route_does_what_its_description_says(
    request: pytest.FixtureRequest, tmp_path: Path, push_server: PushServer, database: str
) -> None:
    url = request.getfixturevalue(f"migrated_{database}")
    site = described_site(url, tmp_path, push_server.origin)
    with site.gunicorn(stdout=subprocess.DEVNULL):
        done = ask(site, push_server.origin, "--generation-deterministic")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 11" in done.stdout
