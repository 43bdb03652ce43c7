"""Which endpoints are agreed to: no database needed."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushapp.push_services import check_endpoint, is_public_address, parse_origin

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
def test_an_endpoint_of_a_public_push_service_is_agreed_to(endpoint: str) -> None:
    check_endpoint(endpoint)


@pytest.mark.parametrize(
    "host",
    [
        # loopback, private, link-local and the rest, in every spelling
        "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001",
        "0x7f.0.0.0x1", "127.0.0.1.", "0", "0.0.0.0", "10.0.0.1", "10.1", "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1",
        "8.8.8", "134744072", "0x08080808", "010.8.8.8", "8.8.8.8.8", "256.256.256.256", "1.2.3.0x4", "1.2.3.",
        "[::1]", "[::]", "[fe80::1]", "[fe80::1%25eth0]", "[fc00::1]", "[fd12:3456::1]", "[fec0::1]", "[ff02::1]",
        "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a00:1]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2002:a00:1::1]", "[2001:db8::1]", "[2001::1]",
        "[100::1]", "[0:0:0:0:0:0:0:1]", "[::1", "::1", "[]", "[x]", "[1.2.3.4]",
        # names that are not public
        "localhost", "LOCALHOST", "localhost.", "push", "com", "x.localhost", "printer.local", "db.internal",
        "metadata.google.internal", "permanently-removed.invalid", "router.home.arpa", "x.onion", "x.alt",
        # no names
        "", ".", "..", "a..com", ".example.com", "-a.example.com", "a-.example.com", "a_b.example.com",
        "a%2eexample.com", "%31%32%37.0.0.1", "x" * 64 + ".example.com", ".".join(["x" * 60] * 5), "ex ample.com",
        "１２７.0.0.1", "bücher.example.com", "a\tb.example.com", "a\0.example.com", "a,b.example.com",
        # more than a host
        "user@push.example.com", "user:secret@push.example.com", "@push.example.com", "push.example.com@127.0.0.1",
        "push.example.com\\@127.0.0.1", "127.0.0.1\\.example.com", "push.example.com:0", "push.example.com:65536",
        "push.example.com:99999", "push.example.com:", "push.example.com:x", "push.example.com:-1",
        "push.example.com:٤٤٣", "push.example.com:443:443",
    ],
)  # fmt: skip
def test_a_host_that_is_not_public_is_refused(host: str) -> None:
    for path in ("/x", "", "?x", "#x"):
        with pytest.raises(ValueError, match=r"^Must "):
            check_endpoint(f"https://{host}{path}")


@pytest.mark.parametrize(
    "endpoint",
    ["", "x", "https:", "https:/push.example.com/", "https:push.example.com", "https:///x", "//push.example.com/x",
     "http://push.example.com/x", "ftp://push.example.com/", "javascript:alert(1)", "file:///etc/passwd",
     " https://push.example.com/", "https://push.example.com/ ", "https://push.example.com/\n", "\thttps://a.example.com",
     "https://push.example.com/é", "https://push.example.com/\0", "https://push.example.com/\x7f",
     "https://push.example.com/\ud800", "https:\\\\push.example.com\\", "https://push.example.com/" + "x" * 2_048],
)  # fmt: skip
def test_what_is_no_https_url_is_refused(endpoint: str) -> None:
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
def test_a_trusted_push_service_is_let_through(endpoint: str) -> None:
    check_endpoint(endpoint, TRUSTED)


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:8766/x", "https://127.0.0.1:8765/x", "http://127.0.0.1/x", "http://push.internal/",
     "https://x.push.internal/", "http://127.0.0.1:8765@evil.internal/", "http://127.0.0.1:8765 /x",
     "http://user@127.0.0.1:8765/", "http://2130706433:8765/x"],
)  # fmt: skip
def test_trust_is_in_one_origin_and_no_other(endpoint: str) -> None:
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
def test_an_origin_has_one_spelling(text: str, origin: str) -> None:
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
def test_what_is_no_origin_is_said_so(text: object) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        parse_origin(text)


def test_a_nat64_address_is_what_it_carries() -> None:
    assert is_public_address(ip_address("64:ff9b::8.8.8.8"))
    assert not is_public_address(ip_address("64:ff9b::192.168.0.1"))


@given(
    st.text(max_size=80) | st.from_regex(r"https?://[\[\]a-z0-9.:%@\\-]{0,40}[/?#]?.{0,9}", fullmatch=True)
)
def test_any_text_is_agreed_to_or_refused_with_a_sentence(text: str) -> None:
    refusal = ""
    try:
        check_endpoint(text)
    except ValueError as error:
        refusal = str(error)
    assert refusal.startswith("Must ") or text.lower().startswith("https://")


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_address_is_judged_the_same(address: object) -> None:
    public = is_public_address(address)  # type: ignore[arg-type]
    assert is_public_address(ip_address(f"::ffff:{address}")) == public
    assert is_public_address(ip_address(f"64:ff9b::{address}")) == public
