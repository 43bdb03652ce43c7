"""Requests that nobody thought of: no input may end in a 5xx."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from pushapp import create_app
from pushapp.extensions import db

from .browsers import subscription
from .conftest import SETTINGS, signed_in

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


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


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
@settings(deadline=None, max_examples=300)
@given(body=BODIES | VALUES)
def test_no_body_is_too_much(anybody: FlaskClient, path: str, body: Any) -> None:
    response = anybody.post(path, data=json.dumps(body), content_type="application/json")
    assert response.status_code in (200, 422), response.text
    assert response.status_code == 200 or response.json["errors"]["json"]


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_are_too_much(anybody: FlaskClient, data: bytes) -> None:
    response = anybody.post("/push/subscribe", data=data, content_type="application/json")
    assert response.status_code in (400, 422), response.text


@settings(deadline=None, max_examples=200)
@given(text=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=";"), max_size=80))
def test_no_cookie_and_no_header_is_too_much(anybody: FlaskClient, text: str) -> None:
    nobody = anybody.application.test_client()
    nobody.set_cookie("access_token", text)
    assert nobody.get("/push/subscriptions").status_code == 401
    headers = {"Origin": text, "Sec-Fetch-Mode": text, "Host": "localhost"}
    assert anybody.delete("/push/subscriptions/1", headers=headers).status_code in (400, 403)


@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO")  # schemathesis leaves answers open
def test_every_route_answers_as_it_is_described(anybody: FlaskClient) -> None:
    cookie = anybody.get_cookie("access_token")
    assert cookie is not None
    cookies = {"access_token": cookie.value}
    routes = 0
    for operation in schemathesis.openapi.from_wsgi(
        "/openapi.json", anybody.application
    ).get_all_operations():
        routes += 1

        @settings(deadline=None, max_examples=60)
        @given(case=operation.ok().as_strategy())
        def answers_as_it_is_described(case: schemathesis.Case) -> None:
            case.call_and_validate(cookies=cookies, headers={"Authorization": "Bearer token"}, checks=CHECKS)

        answers_as_it_is_described()
    assert routes == 11
