"""Errors below the prefix are JSON whatever handlers a host has; all others stay the host's."""

from typing import Any

import pytest
from werkzeug.exceptions import HTTPException

from tests.hosts.conftest import Host
from tests.support.subscriptions import subscription

pytestmark = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@pytest.mark.parametrize("handled", [401, 404, 405, 415, 422, 500, HTTPException, Exception])
def test_a_hosts_handler_does_not_replace_pushapps(host: Host, handled: Any) -> None:
    host.app.register_error_handler(handled, lambda error: ("<h1>Host</h1>", 499))
    client = host.add_pushapp().test_client()
    assert client.post("/push/subscribe", json={}).json["code"] == 401
    assert client.post("/push/subscribe", data="x").json["code"] == 415
    assert client.get("/push/nothing").json["code"] == 404
    assert client.put("/push/subscribe").json["code"] == 405
    with client.session_transaction() as session:
        session["user_id"] = "alice"
    invalid = client.post("/push/subscribe", json={})
    assert (invalid.status_code, set(invalid.json["errors"]["json"])) == (422, {"endpoint", "keys"})
    not_found = client.get("/nothing")
    assert not_found.mimetype == "text/html"
    if handled in (404, HTTPException, Exception):
        assert not_found.status_code == 499


@pytest.mark.parametrize("handled", [None, 500, Exception])
def test_an_exception_is_a_500_without_a_stack(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, handled: Any
) -> None:
    if handled:
        host.app.register_error_handler(handled, lambda error: ("<h1>Host</h1>", 499))

    def fail(*_arguments: object) -> int:
        raise RuntimeError("inside")

    monkeypatch.setattr("pushapp.subscriptions.save", fail)
    response = (
        host.add_pushapp(user_id=lambda: "alice").test_client().post("/push/subscribe", json=subscription())
    )
    assert (response.status_code, response.json["code"]) == (500, 500)
    assert b"inside" not in response.data
    assert "inside" in caplog.text
