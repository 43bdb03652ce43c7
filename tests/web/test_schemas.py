"""Validation of subscriptions: each invalid field is reported by name."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support.http import post, post_raw
from tests.support.subscriptions import base64url, public_point, subscription


def assert_reported(client: FlaskClient, body: object, field: str) -> Any:
    response = post(client, body)
    assert response.status_code == 422
    assert (response.json["code"], response.json["status"]) == (422, "Unprocessable Entity")
    assert field in response.json["errors"]["json"]
    return response.json["errors"]["json"]


@pytest.mark.parametrize("field", ["endpoint", "keys"])
def test_a_missing_field_is_reported(alice: FlaskClient, field: str) -> None:
    body = subscription()
    del body[field]
    assert_reported(alice, body, field)


@pytest.mark.parametrize("value", [None, 1, True, [], {}, ""])
@pytest.mark.parametrize("field", ["endpoint", "keys"])
def test_a_field_of_another_type_is_reported(alice: FlaskClient, field: str, value: object) -> None:
    assert_reported(alice, subscription(**{field: value}), field)


@pytest.mark.parametrize("field", ["p256dh", "auth"])
@pytest.mark.parametrize(
    "value",
    [None, 1, [], "", "=", "A", "!" * 22, "A" * 21, "A" * 23, "é" * 22, "\ud800", "\0", base64url(bytes(17)),
     base64url(bytes(65)), base64url(b"\4" + bytes(64)), base64url(b"\2" + bytes(32)), "AAAA AAAAAAAAAAAAAAAAAA",
     base64url(bytes(16)) + "="],
)  # fmt: skip
def test_an_invalid_key_is_reported(alice: FlaskClient, field: str, value: object) -> None:
    body = subscription()
    body["keys"][field] = value
    errors = assert_reported(alice, body, "keys")
    assert field in errors["keys"]


def test_a_compressed_point_is_reported(alice: FlaskClient) -> None:
    point = public_point()
    body = subscription()
    body["keys"]["p256dh"] = base64url(bytes([2 + point[64] % 2]) + point[1:33])
    assert_reported(alice, body, "keys")


@pytest.mark.parametrize(
    "value",
    [-1, 1.5, True, "1", "", [], {}, 253_402_300_800_000, 2**63, 10**400, 1e300, float("inf"), "١"],
)
def test_an_invalid_expiration_time_is_reported(alice: FlaskClient, value: object) -> None:
    data = json.dumps(subscription(expirationTime=value)).replace("Infinity", "1e999")
    response = post_raw(alice, data)
    assert response.status_code == 422
    assert "expirationTime" in response.json["errors"]["json"]


def test_a_number_longer_than_python_parses_is_valid_only_in_an_unknown_field(alice: FlaskClient) -> None:
    body = json.dumps(subscription(expirationTime=0, more=0))
    digits = "9" * 5_000
    assert post_raw(alice, body.replace('"more": 0', f'"more": {digits}')).status_code == 200
    response = post_raw(alice, body.replace('"expirationTime": 0', f'"expirationTime": {digits}'))
    assert "expirationTime" in response.json["errors"]["json"]
