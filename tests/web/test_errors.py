"""Error responses, and what is logged of them."""

import logging

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from pushapp.database import engine
from tests.support.http import post
from tests.support.subscriptions import subscription


def test_every_error_has_the_same_fields(client: FlaskClient) -> None:
    for path in ("/", "/push/", "/push/nothing", "/push/subscriptions/x"):
        response = client.get(path)
        assert response.status_code in (404, 405)
        assert response.get_json()["code"] == response.status_code
        assert set(response.get_json()) == {"code", "status", "message"}


def test_an_exception_is_logged_and_not_shown(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> str:
        raise RuntimeError("the cause")

    app.add_url_rule("/fail", view_func=fail)
    response = app.test_client().get("/fail")
    assert response.get_json()["code"] == 500
    assert b"the cause" not in response.data
    assert "the cause" in caplog.text


def test_a_failed_statement_is_not_shown_and_its_values_are_not_logged(
    app: Flask, alice: FlaskClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    body = subscription()

    def fail(*arguments: object, **options: object) -> None:
        with engine().begin() as connection:
            connection.execute(
                text("INSERT INTO push_subscriptions (endpoint) VALUES (:endpoint)"),
                {"endpoint": body["endpoint"]},
            )

    monkeypatch.setattr("pushapp.subscriptions.save", fail)
    response = post(alice, body)
    assert response.status_code == 500
    assert b"INSERT" not in response.data
    assert "IntegrityError" in caplog.text
    assert "VALUES (:endpoint)" not in response.text


def test_no_secret_of_a_request_is_logged(alice: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = subscription()
    post(alice, body)
    post(alice, subscription(endpoint=body["endpoint"], keys=None))
    for secret in (body["endpoint"], body["keys"]["p256dh"], body["keys"]["auth"]):
        assert secret not in caplog.text
