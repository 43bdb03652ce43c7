"""Validation of endpoints and origins; no database."""

from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushapp.webpush.endpoints import check_endpoint, is_public_address, parse_origin
from tests.support.invalid_input import INVALID_HOSTS, INVALID_URLS

TRUSTED = ["http://127.0.0.1:8765", "https://push.internal"]


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://fcm.googleapis.com/fcm/send/abc:APA91b",
        "https://jmt17.google.com/fcm/send/x",
        "https://updates.push.services.mozilla.com/wpush/v2/gAAAA",
        "https://web.push.apple.com/QGx",
        "https://wns2-par02p.notify.windows.com/w/?token=BQYAAAD%2b%3d",
        "https://push.example.net:8443/UP?token=a",
        "HTTPS://Push.Example.Net./x",
        "https://xn--bcher-kva.example.com/",
        "https://push.example.com",
        "https://8.8.8.8/x",
        "https://[2606:4700:4700::1111]/x",
        "https://push.example.com/127.0.0.1/@localhost/\\x",
    ],
)
def test_an_endpoint_of_a_public_push_service_is_allowed(endpoint: str) -> None:
    check_endpoint(endpoint)


@pytest.mark.parametrize("host", INVALID_HOSTS)
def test_a_host_that_is_not_public_is_rejected(host: str) -> None:
    for path in ("/x", "", "?x", "#x"):
        with pytest.raises(ValueError, match=r"^Must "):
            check_endpoint(f"https://{host}{path}")


@pytest.mark.parametrize("endpoint", INVALID_URLS)
def test_an_invalid_https_url_is_rejected(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"^Must "):
        check_endpoint(endpoint)


def test_an_endpoint_may_have_2048_characters() -> None:
    check_endpoint("https://push.example.com/".ljust(2_048, "x"))


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:8765/x",
        "HTTP://127.0.0.1:8765/x",
        "https://push.internal/",
        "https://push.internal:443",
    ],
)
def test_a_trusted_push_service_is_allowed(endpoint: str) -> None:
    check_endpoint(endpoint, TRUSTED)


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:8766/x", "https://127.0.0.1:8765/x", "http://127.0.0.1/x", "http://push.internal/",
     "https://x.push.internal/", "http://127.0.0.1:8765@evil.internal/", "http://127.0.0.1:8765 /x",
     "http://user@127.0.0.1:8765/", "http://2130706433:8765/x"],
)  # fmt: skip
def test_trust_is_limited_to_the_origin(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"^Must "):
        check_endpoint(endpoint, TRUSTED)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://example.com", "https://example.com"),
        ("HTTPS://Example.COM:443", "https://example.com"),
        ("http://127.0.0.1:8765", "http://127.0.0.1:8765"),
    ],
)
def test_an_origin_is_normalized(text: str, origin: str) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "example.com",
        "https://example.com/",
        "https://example.com/x",
        "https://a@example.com",
        None,
        1,
    ],
)
def test_an_invalid_origin_is_rejected(text: object) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        parse_origin(text)


def test_a_nat64_address_is_checked_by_its_embedded_address() -> None:
    assert is_public_address(ip_address("64:ff9b::8.8.8.8"))
    assert not is_public_address(ip_address("64:ff9b::192.168.0.1"))


@given(
    st.text(max_size=80) | st.from_regex(r"https?://[\[\]a-z0-9.:%@\\-]{0,40}[/?#]?.{0,9}", fullmatch=True)
)
def test_any_text_is_allowed_or_rejected_with_a_sentence(text: str) -> None:
    message = ""
    try:
        check_endpoint(text)
    except ValueError as error:
        message = str(error)
    assert message.startswith("Must ") or text.lower().startswith("https://")


@given(st.ip_addresses(v=4))
def test_an_embedded_ipv4_address_is_checked_like_the_address_itself(address: IPv4Address) -> None:
    public = is_public_address(address)
    assert is_public_address(ip_address(f"::ffff:{address}")) == public
    assert is_public_address(ip_address(f"64:ff9b::{address}")) == public
