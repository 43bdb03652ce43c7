"""The routes of browsers for channels."""

from collections.abc import Callable

import pytest
from flask import Flask

from tests.conftest import signed_in


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(PUSH_CHANNELS=["news", "a.b_c-9"])


def test_a_user_joins_and_leaves_a_channel(app: Flask) -> None:
    alice, bob = signed_in(app, "alice"), signed_in(app, "bob")
    not_joined = {"channels": [{"name": "news", "joined": False}, {"name": "a.b_c-9", "joined": False}]}
    assert alice.get("/push/channels").json == not_joined
    for _ in range(2):
        response = alice.put("/push/channels/a.b_c-9")
        assert (response.status_code, response.data) == (204, b"")
    joined = {"channels": [{"name": "news", "joined": False}, {"name": "a.b_c-9", "joined": True}]}
    assert alice.get("/push/channels").json == joined
    assert bob.get("/push/channels").json == not_joined
    for _ in range(2):
        assert alice.delete("/push/channels/a.b_c-9").status_code == 204
    assert alice.get("/push/channels").json == not_joined


@pytest.mark.parametrize("name", ["other", "News", "x" * 65, "%00"])
def test_a_channel_that_is_not_in_the_settings_is_not_found(app: Flask, name: str) -> None:
    alice = signed_in(app, "alice")
    assert alice.put(f"/push/channels/{name}").status_code == 404
    assert alice.delete(f"/push/channels/{name}").status_code == 404


def test_the_order_of_checks(app: Flask) -> None:
    client, alice = app.test_client(), signed_in(app, "alice")
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert client.post("/push/channels").status_code == 405
    assert client.put("/push/channels/other", headers=cross).status_code == 403
    assert client.put("/push/channels/other").status_code == 401
    assert client.delete("/push/channels/news").status_code == 401
    assert client.get("/push/channels").status_code == 401
    assert alice.put("/push/channels/news", data="x", content_type="text/plain").status_code == 204
