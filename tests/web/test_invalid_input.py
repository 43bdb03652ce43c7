"""The corpus of invalid input, sent to the README's gunicorn over a socket, on both databases."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.conftest import migrate
from tests.support import invalid_input
from tests.support.deployment import Deployment

TOKEN = "a secret token"
COOKIE, OTHER_COOKIE = (Deployment.cookie(user) for user in ("sender", "other"))


@pytest.fixture(params=[pytest.param("sqlite", marks=pytest.mark.slow), "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/pushapp.db"
    else:
        url = request.getfixturevalue("server").create_database("invalid_input")
    migrate(url, tmp_path)
    site = Deployment(url, tmp_path, FLASK_PUSH_API_TOKENS=f'["{TOKEN}"]')
    with (tmp_path / "log").open("w") as log, site.gunicorn(stdout=log):
        yield site


def send(site: Deployment, request: bytes) -> bytes:
    """Send a request verbatim, and return all bytes of the response."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as connection:
        response = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65_536):
                response += chunk
        except TimeoutError:
            raise
        except OSError:
            pass  # the server has closed the connection before the end of the request
        return response


def statuses(response: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", response)]


def count_rows(site: Deployment) -> int:
    url = site.environment["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(url)
    with engine.connect() as connection:
        number = connection.execute(text("SELECT count(*) FROM push_subscriptions")).scalar_one()
    engine.dispose()
    return int(number)


def is_rejection(status: int, request: bytes) -> bool:
    if status == 308:  # a path with two slashes is redirected
        return b"//" in request.split(b"\r\n")[0]
    if status == 501:  # gunicorn's response to an unknown transfer coding (RFC 9112, section 6.1)
        return re.search(rb"Transfer-Encoding: (xchunked|chunked;x)", request) is not None
    return 400 <= status < 500


def assert_no_secret_is_logged(site: Deployment) -> None:
    log = Path(site.folder, "log").read_text()
    cookie = COOKIE.partition("=")[2]
    secrets = [
        cookie, cookie.rpartition(".")[2], site.environment["SECRET_KEY"], TOKEN, invalid_input.VALID["endpoint"],
        *invalid_input.VALID["keys"].values(), site.environment["FLASK_PUSH_VAPID_PRIVATE_KEY"],
    ]  # fmt: skip
    assert [secret for secret in secrets if secret in log] == []
    assert "Traceback" not in log


def corpus() -> Iterator[bytes]:
    for body in invalid_input.bodies():
        yield invalid_input.request(invalid_input.SUBSCRIBE, COOKIE, body=body)
        chunks = (body[start : start + 1_000] for start in range(0, len(body), 1_000))
        yield invalid_input.request(
            invalid_input.SUBSCRIBE, COOKIE, "Transfer-Encoding: chunked", body=invalid_input.chunked(*chunks)
        )
    line, token = "POST /push/messages HTTP/1.1", f"Authorization: Bearer {TOKEN}"
    for body in invalid_input.messages():
        yield invalid_input.request(line, "x=y", token, body=body)
    yield from invalid_input.requests(COOKIE, OTHER_COOKIE)


def test_all_invalid_input_is_rejected(site: Deployment) -> None:
    failures = []
    requests = list(corpus())
    assert len(requests) > 1_300
    for request in requests:
        started_at = time.monotonic()
        response = send(site, request)
        is_late = time.monotonic() - started_at > 30
        if is_late or not all(is_rejection(status, request) for status in statuses(response)):
            failures.append((request[:300], response[:300]))
    assert failures == []
    assert count_rows(site) == 0
    assert send(site, invalid_input.request("GET /healthz HTTP/1.1", "")).startswith(b"HTTP/1.1 200")
    assert_no_secret_is_logged(site)
