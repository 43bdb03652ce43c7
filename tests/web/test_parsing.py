"""JSON bodies of requests: what is parsed, and what is rejected."""

import json

import pytest
from flask.testing import FlaskClient

from tests.support.http import post_raw
from tests.support.subscriptions import subscription


@pytest.mark.parametrize(
    "data",
    [
        "", " ", "{", "x", "'x'", '{"a": NaN}', '{"a": Infinity}', '{"a": 1,}', '{"a": "\n"}', "[" * 8_000,
        '{"a":' * 3_000, b"\xff\xfe{\0}\0", b'"\xff"', "{} {}",
    ],
)  # fmt: skip
def test_invalid_json_is_a_bad_request(alice: FlaskClient, data: str | bytes) -> None:
    response = post_raw(alice, data)
    assert response.status_code == 400
    assert response.json == {
        "code": 400,
        "status": "Bad Request",
        "message": "The body is not valid JSON.",
    }


@pytest.mark.parametrize("data", ["null", "1", '"x"', "[]", "[{}]", "true"])
def test_json_other_than_an_object_is_unprocessable(alice: FlaskClient, data: str) -> None:
    assert post_raw(alice, data).status_code == 422


def test_a_byte_order_mark_is_no_error(alice: FlaskClient) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(subscription()).encode()
    assert post_raw(alice, body).status_code == 200


def test_a_body_has_at_most_16_kibibytes(alice: FlaskClient) -> None:
    body = json.dumps(subscription())
    assert post_raw(alice, body.ljust(16_384)).status_code == 200
    assert post_raw(alice, body.ljust(16_385)).status_code == 413
    assert post_raw(alice, body.ljust(1_000_000)).status_code == 413


def test_a_chunked_body_has_at_most_16_kibibytes(alice: FlaskClient) -> None:
    body = json.dumps(subscription())
    for length, status in ((16_384, 200), (16_385, 413), (1_000_000, 413)):
        response = post_raw(
            alice,
            body.ljust(length),
            environ_overrides={"CONTENT_LENGTH": "", "wsgi.input_terminated": True},
        )
        assert response.status_code == status
