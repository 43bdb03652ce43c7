"""Invalid and malicious requests: none may cause a 5xx, hang, or store a row."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from tests.support.subscriptions import base64url, subscription

VALID = subscription(endpoint="https://push.example.net/invalid")

INVALID_HOSTS = [
    # loopback, private, link-local and reserved addresses, in every notation
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
    # invalid names
    "", ".", "..", "a..com", ".example.com", "-a.example.com", "a-.example.com", "a_b.example.com",
    "a%2eexample.com", "%31%32%37.0.0.1", "x" * 64 + ".example.com", ".".join(["x" * 60] * 5), "ex ample.com",
    "１２７.0.0.1", "bücher.example.com", "a\tb.example.com", "a\0.example.com", "a,b.example.com",
    # more than a host
    "user@push.example.com", "user:secret@push.example.com", "@push.example.com", "push.example.com@127.0.0.1",
    "push.example.com\\@127.0.0.1", "127.0.0.1\\.example.com", "push.example.com:0", "push.example.com:65536",
    "push.example.com:99999", "push.example.com:", "push.example.com:x", "push.example.com:-1",
    "push.example.com:٤٤٣", "push.example.com:443:443",
]  # fmt: skip

INVALID_URLS = [
    "", "x", "https:", "https:/push.example.com/", "https:push.example.com", "https:///x", "//push.example.com/x",
    "http://push.example.com/x", "ftp://push.example.com/", "javascript:alert(1)", "file:///etc/passwd",
    " https://push.example.com/", "https://push.example.com/ ", "https://push.example.com/\n",
    "\thttps://a.example.com", "https://push.example.com/é", "https://push.example.com/\0",
    "https://push.example.com/\x7f", "https://push.example.com/\ud800", "https:\\\\push.example.com\\",
    "https://push.example.com/" + "x" * 2_048,
]  # fmt: skip

INVALID_JSON = [
    b"", b" ", b"{", b"}", b"x", b"'x'", b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1,}', b'{"a": "\n"}', b"[" * 8_000,
    b'{"a":' * 3_000, b"\xff\xfe{\0}\0", b"\xfe\xff\0{\0}", b"\xef\xbb\xbf{}", b'"\xff"', b'"\xed\xa0\x80"', b"{} {}",
    b"{}\0", b"\0", b"\x80", b"//{}", b"{a: 1}", b'{"a" 1}', b'{"a": 01}', b'{"a": +1}', b'{"a": .5}', b'{"a": 0x1}',
    b'{"a": "\\x"}', b'{"a": "\\u12"}', b'{"a": tru}', b'{"a": "', b"endpoint=x&keys=y", b"<xml/>", b"\r\n" * 5_000,
    json.dumps(VALID).encode("utf-16"), json.dumps(VALID).encode("utf-32"), json.dumps(VALID).encode("utf-16-le"),
    "{\u00a0}".encode(), b'{"a": "\x01"}', b"{'endpoint': 1}", b"/* */ {}", b")]}'\n{}", b"[1" + b",1" * 9 + b",]",
    b'{"a": 1}}', b'["a"', b'"a', b"\xc3\x28", b"\xf0\x9f\x98", b"{\x0b}", b"{\xc2\x85}",
]  # fmt: skip

VALUES: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e308, 2**63, -(2**63) - 1, 10**400, "", " ", "\0", "\ud800", "\udfff\ud800",
    "\u202e", "💥" * 99, "'; DROP TABLE push_subscriptions; --", "%s%n", "{{7*7}}", "${jndi:ldap://x}", "../../etc",
    "<script>", [], [[]], [None] * 99, {}, {"$gt": ""}, {"__proto__": {}}, {"": 1}, ["https://push.example.net/"],
]  # fmt: skip

INVALID_KEYS: list[Any] = [
    "=", "A", "!" * 22, "A" * 21, "A" * 23, "é" * 22, base64url(bytes(17)), base64url(b"\4" + bytes(64)),
    base64url(b"\2" + bytes(32)), base64url(b"\4" + b"\xff" * 64), "A" * 10_000, "AAAA AAAA", "AAAA\nAAAA", "=" * 88,
    base64.b64encode(bytes(65)).decode(), base64url(bytes(64)), base64url(bytes(66)), "%" * 87, "\u0410" * 87,
]  # fmt: skip


def bodies() -> Iterator[bytes]:
    """Yield bodies that are not a subscription."""
    yield from INVALID_JSON
    yield from (json.dumps(value).encode() for value in VALUES)
    for member in ("endpoint", "keys"):
        yield from (json.dumps(VALID | {member: value}).encode() for value in VALUES)
    for value in VALUES:
        if (value is not None and value != 0) or value is False:
            yield json.dumps(VALID | {"expirationTime": value}).encode()
    for key in ("p256dh", "auth"):
        for value in VALUES + INVALID_KEYS:
            yield json.dumps(VALID | {"keys": VALID["keys"] | {key: value}}).encode()
    for host in INVALID_HOSTS:
        yield json.dumps(VALID | {"endpoint": f"https://{host}/x"}).encode()
    for url in INVALID_URLS:
        yield json.dumps(VALID | {"endpoint": url}).encode()
    good = json.dumps(VALID)[1:]
    yield f'{{{good[:-1]}, "endpoint": "https://127.0.0.1/"}}'.encode()  # the last of two members counts
    yield f'{{{good[:-1]}, "keys": {{}}}}'.encode()
    yield f'{{{good[:-1]}, "\\u0065ndpoint": 1}}'.encode()
    yield json.dumps(VALID | {"x": "x" * 16_384}).encode()
    yield b"x" * 1_000_000


def messages() -> Iterator[bytes]:
    """Yield bodies that are not a message, for a client with a valid token."""
    yield from INVALID_JSON
    good = {"to": {"user_id": "invalid"}, "notification": {"title": "Hello"}}
    for value in VALUES:
        yield json.dumps(value).encode()
        for member in ("to", "notification"):
            yield json.dumps(good | {member: value}).encode()
        for member in ("ttl", "urgency", "topic"):
            if isinstance(value, bool) or member != "ttl" or value != 0:
                yield json.dumps(good | {member: value}).encode()
        if not isinstance(value, str) or value in ("", "\0", "\ud800", "\udfff\ud800"):
            yield json.dumps(good | {"to": {"user_id": value}}).encode()
        if value is not True:
            yield json.dumps(good | {"to": {"everyone": value}}).encode()
        if not isinstance(value, str):
            yield json.dumps(good | {"notification": {"title": value}}).encode()
    for user in ("a\nb", "\x7f", "\x85", "x" * 256):
        yield json.dumps(good | {"to": {"user_id": user}}).encode()


SUBSCRIBE = "POST /push/subscribe HTTP/1.1"
EMPTY_BODY = b"{}"
VALID_BODY = json.dumps(VALID).encode()


def request(line: str, cookie: str, *headers: str | bytes, body: bytes = b"", length: bool = True) -> bytes:
    """Return a request; `headers` replace default headers with the same name."""
    names = {header.split(":")[0].lower() for header in headers if isinstance(header, str)}
    defaults = ["Host: 127.0.0.1", "Connection: close", f"Cookie: {cookie}", "Content-Type: application/json"]
    if length and "transfer-encoding" not in names:
        defaults.append(f"Content-Length: {len(body)}")
    added = [header for header in defaults if header.split(":")[0].lower() not in names]
    lines = [text if isinstance(text, bytes) else text.encode() for text in (line, *added, *headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a chunked body."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end


def requests(cookie: str, other: str) -> Iterator[bytes]:
    """Yield requests that are invalid other than by their body; `other` is another user's cookie."""
    yield from _cross_site(cookie)
    yield from _content_types(cookie)
    yield from _credentials(cookie, other)
    yield from _paths(cookie)
    yield from _request_lines(cookie)
    yield from _framing(cookie)
    yield from _headers(cookie)
    yield from _raw_bytes()


def _cross_site(cookie: str) -> Iterator[bytes]:
    for site in ("cross-site", "same-site", "", "none ", "same-origin, cross-site", "x" * 5_000, "é"):
        yield request(SUBSCRIBE, cookie, f"Sec-Fetch-Site: {site}x", body=VALID_BODY)
    for origin in ("null", "", "https://evil.example", "http://127.0.0.1.evil.example", "http://127.0.0.1@evil.example",
                   "http://127.0.0.1:1", "://", "http://[", "http://[::1", "\xff", "http://127.0.0.1, http://evil.example",
                   "file://", "chrome-extension://x", "http://127.0.0.1\\evil"):  # fmt: skip
        yield request(SUBSCRIBE, cookie, f"Origin: {origin}", body=VALID_BODY)


def _content_types(cookie: str) -> Iterator[bytes]:
    for kind in ("text/plain", "text/plain; x=application/json", "application/x-www-form-urlencoded", "multipart/form-data",
                 "application/json5", "application/x+json", "json", "application/", "/", ";", "x" * 4_000,
                 "application/json, text/plain", "text/plain, application/json", "application/JSONP"):  # fmt: skip
        yield request(SUBSCRIBE, cookie, f"Content-Type: {kind}", body=VALID_BODY)
    for charset in ("utf-16", "utf-7", "latin-1", "x", '"', "utf-8; charset=utf-16"):
        yield request(
            SUBSCRIBE, cookie, f"Content-Type: application/json; charset={charset}", body=EMPTY_BODY
        )


def _credentials(cookie: str, other: str) -> Iterator[bytes]:
    value = cookie.partition("=")[2]
    payload, _, signature = value.partition(".")
    for wrong in ("", "x", ".", "..", "...", f".{value}", f"{value}.", value[:-5], value[5:], value.upper(), f"{payload}..x",
                  f"{payload}.{signature[::-1]}", "e30.x.y", "eyJ1c2VyX2lkIjoiYWxpY2UifQ", "eyJ1c2VyX2lkIjoiYWxpY2UifQ.aaaa.bbbb",
                  "\xff" * 20, "💥", '"', "\\", "\\052", "a" * 3_000, f"{value}\t", f"{value}%00", f'"{value}\\"',
                  "0" * 40, "null", "true", "{}", "admin", "1", ".eJw", "YWxpY2U="):  # fmt: skip
        yield request(SUBSCRIBE, f"access_token={wrong}", body=EMPTY_BODY)
    yield request(SUBSCRIBE, f"access_token=x; {cookie}", body=VALID_BODY)  # the first of two cookies counts
    yield request(SUBSCRIBE, f"{cookie}; {other}", body=EMPTY_BODY)
    yield request(SUBSCRIBE, f"{cookie}x; {other}", body=VALID_BODY)
    yield request(SUBSCRIBE, "access_token=x", f"cookie: {cookie}", body=EMPTY_BODY)
    yield request(SUBSCRIBE, "; ; ;=;==; \x01=\x02", body=EMPTY_BODY)
    yield request(SUBSCRIBE, f"Access_Token={value}", body=VALID_BODY)
    yield request(SUBSCRIBE, f"access_token ={value[1:]}", body=VALID_BODY)
    yield request(SUBSCRIBE, "; ".join(f"c{n}=x" for n in range(900)), body=VALID_BODY)
    for token in (
        "",
        "Bearer",
        "Bearer x",
        "bearer  ",
        "Basic Og==",
        "Bearer " + "x" * 4_000,
        "Bearer \xff",
        "Digest x",
    ):
        yield request("POST /push/messages HTTP/1.1", cookie, f"Authorization: {token}", body=VALID_BODY)
        yield request("GET /push/messages/1 HTTP/1.1", cookie, f"Authorization: {token}")


def _paths(cookie: str) -> Iterator[bytes]:
    for path in ("/push/subscribe/", "//push/subscribe", "/push//subscribe", "/push/%73ubscribe%00", "/push/../push/subscribe/x",
                 "/push/%2e%2e/x", "/push/client.js/../../config.py", "/push/..%2fconfig.py", "/push/%c0%ae%c0%ae/x", "/%ff%fe",
                 "/push/subscriptions/0x1", "/push/subscriptions/1e3", "/push/subscriptions/%d9%a1", "/push/subscriptions/-1",
                 "/push/subscriptions/9223372036854775808", "/push/subscriptions/" + "9" * 3_000, "/push/subscriptions/1%0a",
                 "/push/subscriptions/1;x", "/push/subscriptions/1 OR 1=1".replace(" ", "%20"), "/" + "a" * 4_000, "/?" + "a" * 4_000,
                 "/static/../wsgi.py", "/instance/secret_key", "/.git/config", "/metrics", "/demo/sign-in", "/console", "/%00"):  # fmt: skip
        for method in ("GET", "POST", "DELETE"):
            yield request(f"{method} {path} HTTP/1.1", cookie, body=EMPTY_BODY)


def _request_lines(cookie: str) -> Iterator[bytes]:
    for method in (
        "PUT",
        "PATCH",
        "TRACE",
        "CONNECT",
        "PROPFIND",
        "FOO",
        "get",
        "POST\t",
        "X" * 300,
        "",
        "\x00",
        "POST POST",
    ):
        yield request(f"{method} /push/subscribe HTTP/1.1", cookie, body=VALID_BODY)
    for version in (
        "HTTP/0.9",
        "HTTP/3.0",
        "HTTP/9.9",
        "HTTP/1.10",
        "HTTP/x",
        "HTTP/",
        "FTP/1.1",
        "",
        "HTTP/1.1 x",
    ):
        yield request(f"POST /push/subscribe {version}", cookie, body=EMPTY_BODY)


def _framing(cookie: str) -> Iterator[bytes]:
    for length in ("-1", "+2", "0x2", "2, 2", "2,3", "1e1", "99999999999999999999", "٢", "", " ", "2 2", "x"):
        yield request(SUBSCRIBE, cookie, f"Content-Length: {length}", body=EMPTY_BODY)
    yield request(SUBSCRIBE, cookie, "Content-Length: 2", "content-length: 200", body=EMPTY_BODY)
    for coding in (
        "chunked, chunked",
        "identity",
        "xchunked",
        "chunked;x",
        "\x0bchunked",
        "chunked, identity",
        "gzip, chunked",
    ):
        yield request(SUBSCRIBE, cookie, f"Transfer-Encoding: {coding}", body=chunked(EMPTY_BODY))
    yield request(
        SUBSCRIBE, cookie, "Transfer-Encoding: chunked", "Content-Length: 2", body=chunked(EMPTY_BODY)
    )
    for chunks in (chunked(b"[" * 9_000), chunked(*[b"x" * 4_096] * 20), chunked(*[b"x"] * 20_000), chunked(EMPTY_BODY, EMPTY_BODY),
                   b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n{}\r\n0\r\n\r\n", b"2\n{}\n0\n\n", b"ffffffffffffffffff\r\n{}", b"2;" + b"x" * 9_000 + b"\r\n{}\r\n0\r\n\r\n",
                   b"2\r\n{}0\r\n\r\n", chunked(EMPTY_BODY, end=b"0\r\nX: y\r\n\r\n"), chunked(EMPTY_BODY, end=b"0\r\n" + b"X: y\r\n" * 500 + b"\r\n"), b"\r\n"):  # fmt: skip
        yield request(SUBSCRIBE, cookie, "Transfer-Encoding: chunked", body=chunks)


def _headers(cookie: str) -> Iterator[bytes]:
    yield request(SUBSCRIBE, cookie, *(f"X-{n}: y" for n in range(200)), body=EMPTY_BODY)
    yield request(SUBSCRIBE, cookie, "X: " + "y" * 20_000, body=EMPTY_BODY)
    for malformed in (
        b"X\0: y",
        b"X: \0",
        b"X : y",
        b": y",
        b"X",
        b"X\xff: y",
        b" X: y",
        b"X: a\nY: b",
        b"(): y",
        b"X: a\r Y: b",
    ):
        yield request(SUBSCRIBE, cookie, malformed, body=EMPTY_BODY)
    for host in ("", "a b", "evil.example:99999", "[::1", "127.0.0.1\x00", "x" * 3_000, "127.0.0.1:x", "é"):
        yield request(SUBSCRIBE, cookie, f"Host: {host}", body=EMPTY_BODY)
    for header in ("Expect: 200-ok", "Upgrade: h2c", "X-HTTP-Method-Override: DELETE", "Content-Encoding: gzip",
                 "X-Forwarded-Host: evil.example", "Range: bytes=0-99999999", "If-Match: *", "TE: trailers",
                 "X-Forwarded-Proto: x", "Forwarded: host=evil", "Accept: x/y", "Accept-Encoding: x"):  # fmt: skip
        yield request(SUBSCRIBE, cookie, header, body=EMPTY_BODY)


def _raw_bytes() -> Iterator[bytes]:
    yield from (
        b"\r\n",
        b"\0" * 99,
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"x" * 70_000 + b"\r\n\r\n",
    )
