"""Errors below the prefix are JSON whatever handlers a host has; all others stay the host's."""

from typing import Any

import pytest
from flask import abort
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError
from werkzeug.exceptions import HTTPException, InternalServerError, NotFound, Unauthorized

from tests.hosts.conftest import Host
from tests.support.subscriptions import subscription

pytestmark = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
HANDLED: list[type[Exception] | int] = [
    400, 401, 403, 404, 405, 413, 415, 422, 500, 503, HTTPException, Exception, NotFound, Unauthorized,
    InternalServerError, SQLAlchemyError, RuntimeError,
]  # fmt: skip


def handle(_error: object) -> tuple[str, int]:
    return "<h1>Host</h1>", 499


@pytest.mark.parametrize("is_first", [True, False])
def test_a_hosts_handlers_do_not_replace_pushapps(
    host: Host, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    users: list[object] = []
    app = host.app if is_first else host.add_pushapp(user_id=lambda: (users and users[0]) or None)
    for handled in HANDLED:
        app.register_error_handler(handled, handle)
    if is_first:
        host.add_pushapp(user_id=lambda: (users and users[0]) or None)
    client = app.test_client()

    def status(response: Any) -> int:
        assert response.status_code == response.json["code"], response.data
        assert set(response.json) <= {"code", "status", "message", "errors"}
        return int(response.json["code"])

    assert status(client.post("/push/subscribe", json={})) == 401
    assert status(client.post("/push/subscribe", data="x")) == 415
    assert status(client.post("/push/subscribe", json={}, headers={"Sec-Fetch-Site": "cross-site"})) == 403
    assert status(client.post("/push/messages", json={})) == 401
    assert status(client.get("/push/nothing")) == 404
    assert status(client.get("/push/subscriptions/x")) == 404
    wrong_method = client.put("/push/subscribe")
    assert status(wrong_method) == 405
    assert set(wrong_method.headers["Allow"].split(", ")) == {"OPTIONS", "POST"}
    users.append("alice")
    invalid = client.post("/push/subscribe", json={})
    assert status(invalid) == 422
    assert set(invalid.get_json()["errors"]["json"]) == {"endpoint", "keys"}
    assert status(client.post("/push/subscribe", json="x" * 20_000)) == 413
    assert status(client.post("/push/subscribe", data="{", content_type="application/json")) == 400
    assert status(client.delete("/push/subscriptions/7")) == 404
    for raised, expected in (
        (OperationalError("SELECT 1", {}, Exception("locked")), 503),
        (IntegrityError("SELECT 1", {}, Exception("unique")), 500),
        (RuntimeError("inside"), 500),
    ):
        monkeypatch.setattr("pushapp.subscriptions.save", raising(raised))
        assert status(client.post("/push/subscribe", json=subscription())) == expected


def raising(error: Exception) -> Any:
    def fail(*_arguments: object) -> int:
        raise error

    return fail


@pytest.mark.parametrize("handled", [404, 405, 500, HTTPException, Exception])
def test_the_hosts_errors_stay_its_own(host: Host, handled: Any) -> None:
    app = host.app
    app.register_error_handler(handled, handle)
    app.add_url_rule("/fail", "fail", view_func=lambda: str(1 / 0))
    app.add_url_rule("/abort", "abort", view_func=lambda: abort(418))
    client = host.add_pushapp().test_client()
    expected = {
        ("GET", "/nothing"): (404, (404, HTTPException, Exception)),
        ("GET", "/push"): (404, (404, HTTPException, Exception)),
        ("GET", "/pushing/nothing"): (404, (404, HTTPException, Exception)),
        ("POST", "/"): (405, (405, HTTPException, Exception)),
        # Flask passes exceptions to a handler of HTTPException too, as InternalServerError.
        ("GET", "/fail"): (500, (500, HTTPException, Exception)),
        ("GET", "/abort"): (418, (HTTPException, Exception)),
    }
    for (method, path), (status, handlers) in expected.items():
        response = client.open(path, method=method)
        assert response.status_code == (499 if handled in handlers else status), path
        assert response.mimetype == "text/html"


@pytest.mark.parametrize("handled", [None, 500, Exception])
def test_an_exception_is_a_500_without_a_stack(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, handled: Any
) -> None:
    if handled:
        host.app.register_error_handler(handled, handle)
    monkeypatch.setattr("pushapp.subscriptions.save", raising(RuntimeError("inside")))
    client = host.add_pushapp(user_id=lambda: "alice").test_client()
    response = client.post("/push/subscribe", json=subscription())
    assert (response.status_code, response.get_json()["code"]) == (500, 500)
    assert b"inside" not in response.data
    assert b"Traceback" not in response.data
    assert "inside" in caplog.text


def test_an_exception_of_the_hosts_user_id_is_a_500(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    response = host.add_pushapp(user_id=lambda: 1 / 0).test_client().get("/push/subscriptions")
    assert (response.status_code, response.get_json()["code"]) == (500, 500)
    assert "ZeroDivisionError" in caplog.text


def test_an_exception_is_raised_in_the_hosts_tests(host: Host) -> None:
    host.app.testing = True
    client = host.add_pushapp(user_id=lambda: 1 / 0).test_client()
    with pytest.raises(ZeroDivisionError):
        client.get("/push/subscriptions")
