"""The hostile corpus against the README's gunicorn over a socket, on both databases."""

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

TOKEN = "a token that nobody knows"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("hostile")
    if request.param == "sqlite":
        url = f"sqlite:///{folder}/pushapp.db"
    else:
        url = request.getfixturevalue("server").create_database("hostile")
    migrate(url, folder)
    site = Deployment(url, folder, FLASK_PUSH_API_TOKENS=f'["{TOKEN}"]')
    with (folder / "log").open("w") as log, site.gunicorn(stdout=log):
        yield site


def answer_to(site: Deployment, request: bytes) -> bytes:
    """Send a request as it stands, and return what comes back until the server ends it."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection:
        answer = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65_536):
                answer += piece
        except TimeoutError:
            raise
        except OSError:
            pass  # it has heard enough
        return answer


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", answer)]


def kept_rows(site: Deployment) -> int:
    url = site.environment["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(url)
    with engine.connect() as connection:
        number = connection.execute(text("SELECT count(*) FROM push_subscriptions")).scalar_one()
    engine.dispose()
    return int(number)


def is_refusal(status: int, request: bytes) -> bool:
    if status == 308:  # two slashes are led to the path with one
        return b"//" in request.split(b"\r\n")[0]
    if status == 501:  # an unknown coding (RFC 9112, section 6.1): gunicorn says so before we are asked
        return re.search(rb"Transfer-Encoding: (xchunked|chunked;x)", request) is not None
    return 400 <= status < 500


def assert_harmless(site: Deployment, requests: list[bytes]) -> None:
    wrong = []
    for request in requests:
        began = time.monotonic()
        answer = answer_to(site, request)
        late = time.monotonic() - began > 5
        if late or not all(is_refusal(status, request) for status in statuses(answer)):
            wrong.append((request[:300], answer[:300]))
    assert wrong == []
    assert kept_rows(site) == 0
    assert answer_to(site, invalid_input.request("GET /healthz HTTP/1.1", "")).startswith(b"HTTP/1.1 200")


def test_bodies(site: Deployment) -> None:
    cookie = site.cookie("hostile")
    bodies = list(invalid_input.bodies())
    assert len(bodies) > 300
    assert_harmless(
        site, [invalid_input.request(invalid_input.TO_SUBSCRIBE, cookie, body=body) for body in bodies]
    )


def test_messages(site: Deployment) -> None:
    line, token = "POST /push/messages HTTP/1.1", f"Authorization: Bearer {TOKEN}"
    assert_harmless(
        site, [invalid_input.request(line, "x=y", token, body=body) for body in invalid_input.messages()]
    )


def test_chunked_bodies(site: Deployment) -> None:
    requests = [
        invalid_input.request(
            invalid_input.TO_SUBSCRIBE, site.cookie("hostile"), "Transfer-Encoding: chunked",
            body=invalid_input.chunked(*(body[at : at + 1_000] for at in range(0, len(body), 1_000))),
        )
        for body in invalid_input.bodies()
    ]  # fmt: skip
    assert_harmless(site, requests)


def test_requests(site: Deployment) -> None:
    requests = list(invalid_input.requests(site.cookie("hostile"), site.cookie("another")))
    assert len(requests) > 200
    assert_harmless(site, requests)


def test_no_secret_is_in_the_log(site: Deployment) -> None:
    log = Path(site.folder, "log").read_text()
    cookie = site.cookie("hostile").partition("=")[2]
    secrets = [
        cookie, cookie.rpartition(".")[2], site.environment["SECRET_KEY"], TOKEN, invalid_input.GOOD["endpoint"],
        *invalid_input.GOOD["keys"].values(), site.environment["FLASK_PUSH_VAPID_PRIVATE_KEY"],
    ]  # fmt: skip
    assert [secret for secret in secrets if secret in log] == []
    assert "Traceback" not in log
