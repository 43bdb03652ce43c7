"""Routes without authentication."""

from flask.testing import FlaskClient


def test_the_vapid_public_key_is_public(client: FlaskClient) -> None:
    response = client.get("/push/vapid-public-key")
    assert list(response.get_json()) == ["publicKey"]
    assert len(response.get_json()["publicKey"]) == 87
    assert response.get_json()["publicKey"].startswith("B")


def test_the_browser_modules_are_public_and_revalidated(client: FlaskClient) -> None:
    module = client.get("/push/client.js")
    worker = client.get("/push/service-worker.js")
    for response in (module, worker):
        assert response.status_code == 200
        assert response.mimetype == "text/javascript"
        assert response.headers["Cache-Control"] == "no-cache"
        response.close()
    assert "Service-Worker-Allowed" not in worker.headers


def test_liveness_and_readiness_are_public(client: FlaskClient) -> None:
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
