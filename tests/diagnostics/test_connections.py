"""`flask push check --connect`: as a worker connects, through its proxy and with its CA certificates."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

from pushapp.diagnostics import connections
from tests.support.operators import check, to_fix
from tests.support.postgresql import free_port
from tests.support.push_server import PushServer
from tests.support.tls import Proxy, self_signed, tls_server


@pytest.fixture(autouse=True)
def no_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PUSH_SERVICES", ())


@pytest.fixture(params=["sqlite"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue("migrated_sqlite")
    return url


@pytest.fixture(params=["http", "socks5h"])
def proxy(request: pytest.FixtureRequest) -> Iterator[tuple[Proxy, str]]:
    proxy = Proxy()
    yield proxy, f"{request.param}://user:s3cr3t@127.0.0.1:{proxy.port}"
    proxy.close()


@pytest.fixture
def tls_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port that speaks TLS, with a certificate for localhost that clients trust."""
    path = self_signed(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with tls_server(path) as port:
        yield port


def test_they_are_tried_only_when_asked(make_app: Callable[..., Flask], push_server: PushServer) -> None:
    app = make_app(PUSH_TRUSTED_PUSH_SERVICES=[push_server.origin])
    assert push_server.origin not in check(app).stdout
    done = check(app, "--connect")
    assert f"ok   {push_server.origin}: connected after " in done.stdout
    assert to_fix(done) == []
    assert push_server.requests == 0


def test_a_closed_port_and_a_missing_name_are_told(make_app: Callable[..., Flask]) -> None:
    port = free_port()
    origins = [f"http://127.0.0.1:{port}", "https://no-such-name.invalid"]
    closed, missing = to_fix(check(make_app(PUSH_TRUSTED_PUSH_SERVICES=origins), "--connect"))
    assert closed.startswith(f"http://127.0.0.1:{port}: allow connections to port {port} in the firewall")
    assert missing.startswith("https://no-such-name.invalid: correct DNS (name look-up failed: ")


def test_the_ca_certificates_are_those_of_the_worker(
    make_app: Callable[..., Flask], tls_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = f"https://localhost:{tls_port}"
    app = make_app(PUSH_TRUSTED_PUSH_SERVICES=[origin])
    assert f"ok   {origin}: connected after " in check(app, "--connect").stdout
    monkeypatch.delenv("SSL_CERT_FILE")
    (found,) = to_fix(check(app, "--connect"))
    assert found.startswith(f"{origin}: its certificate is not valid here: set SSL_CERT_FILE")
    assert " (SSL certificate" in found


def test_a_public_name_that_leads_to_a_private_address_is_told(
    make_app: Callable[..., Flask], push_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PUSH_SERVICES", (push_server.origin,))
    (found,) = to_fix(check(make_app(), "--connect"))
    assert found == f"{push_server.origin}: correct DNS (127.0.0.1 is no public address)"


def test_a_proxy_is_used_and_looks_up_the_names(
    make_app: Callable[..., Flask], tls_port: int, proxy: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = proxy
    origin = f"https://localhost:{tls_port}"
    monkeypatch.setattr(connections, "PUSH_SERVICES", (origin,))
    done = check(make_app(PUSH_PROXY=url), "--connect")
    assert f"ok   {origin}: connected through the proxy after " in done.stdout
    assert server.targets == [f"localhost:{tls_port}"]
    assert "s3cr3t" not in done.output


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
def test_an_unavailable_proxy_is_told_without_its_password(
    make_app: Callable[..., Flask], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PUSH_SERVICES", ("https://push.example.net",))
    for proxy in (f"user:s3cr3t@127.0.0.1:{free_port()}", "user:s3cr3t@no-such-name.invalid:3128"):
        done = check(make_app(PUSH_PROXY=f"{scheme}://{proxy}"), "--connect")
        (found,) = to_fix(done)
        assert found.startswith(
            "https://push.example.net: correct PUSH_PROXY, or allow connections to port 443"
        )
        assert "s3cr3t" not in done.output


def test_a_proxy_that_rejects_connections_is_told(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    monkeypatch.setattr(connections, "PUSH_SERVICES", ("https://push.example.net",))
    (found,) = to_fix(check(make_app(PUSH_PROXY=f"http://127.0.0.1:{proxy.port}"), "--connect"))
    assert "or allow connections to port 443 in that proxy" in found
    assert "403" in found
    proxy.close()
