"""The OpenAPI description at /openapi.json."""

import re
from collections.abc import Callable

from flask import Flask
from flask.testing import FlaskClient


def test_every_route_but_the_dashboards_pages_is_described(app: Flask, client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    assert document["openapi"].startswith("3.1")
    rules = [rule for rule in app.url_map.iter_rules() if not rule.endpoint.startswith("pushapp.dashboard.")]
    routes = {re.sub("<(.*:)?(.*)>", r"{\2}", rule.rule) for rule in rules}
    assert set(document["paths"]) == routes - {"/openapi.json"}


def test_two_applications_in_one_process_show_their_own_cookie(make_app: Callable[..., Flask]) -> None:
    apps = {name: make_app(SESSION_COOKIE_NAME=name) for name in ("first", "second")}
    for name, app in apps.items():
        schemes = app.test_client().get("/openapi.json").get_json()["components"]["securitySchemes"]
        assert schemes["session"] == {"type": "apiKey", "in": "cookie", "name": name}


def test_every_link_refers_to_an_operation(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    operations = [
        operation
        for path in document["paths"].values()
        for method, operation in path.items()
        if method != "parameters"
    ]
    links = [
        link
        for operation in operations
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert links
    for link in links:
        assert link["operationId"] in [operation.get("operationId") for operation in operations]
