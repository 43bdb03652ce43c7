"""Which endpoints we agree to store and to talk to."""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import NamedTuple

MAX_ENDPOINT_LENGTH = 2048

_URL = re.compile(r"(https?)://([^/?#\\]+)(?:[/?#].*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a last label like this makes the host an IPv4 address
_DEFAULT_PORTS = {"http": 80, "https": 443}

# Names that mean nothing, or something inside (RFC 6761 and its successors). Names that never
# resolve anywhere, like .example, cannot be reached and so need no rule.
_SPECIAL_USE = ("alt", "home.arpa", "internal", "invalid", "local", "localhost", "onion")

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


class Origin(NamedTuple):
    """A URL's scheme, host and port (RFC 6454, section 4)."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def origin_of(url: str) -> Origin:
    """Return the origin of an http or https URL, in lower case.

    Raises ValueError, saying what is wrong, for what is no such URL or carries user info.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("Must be an https URL.")
    scheme, authority = match[1].lower(), match[2].lower()
    if "@" in authority:
        raise ValueError("Must not carry user info.")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ValueError("Must have a host, and a port only as a number.")
    port = int(parts[2] or _DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65535:
        raise ValueError("Must have a port from 1 to 65535.")
    return Origin(scheme, parts[1], port)


def parse_origin(text: object) -> str:
    """Return an origin in its one spelling: lower case, without the default port.

    Raises ValueError for what is more or less than an origin.
    """
    if isinstance(text, str) and text.count("/") == 2:
        try:
            return str(origin_of(text))
        except ValueError:
            pass
    raise ValueError(f"{text!r} is no origin: scheme, host and port alone, such as https://example.com")


def check_endpoint(endpoint: str, trusted: Collection[str] = ()) -> None:
    """Refuse an endpoint that no public push service would hand out.

    `trusted` holds origins that are let through whatever their host, http included.
    Raises ValueError with a sentence that says what is wrong.
    """
    if len(endpoint) > MAX_ENDPOINT_LENGTH:
        raise ValueError(f"Must be at most {MAX_ENDPOINT_LENGTH} characters long.")
    if not (endpoint.isascii() and endpoint.isprintable()) or " " in endpoint:
        raise ValueError("Must be printable ASCII.")
    origin = origin_of(endpoint)
    if str(origin) in trusted:
        return
    if origin.scheme != "https":
        raise ValueError("Must be an https URL.")
    if not is_public_host(origin.host):
        raise ValueError("Must have a public host.")


def is_public_address(address: IPv4Address | IPv6Address) -> bool:
    """Say whether an address is one that anybody on the internet may be sent to.

    IPv6 addresses that carry an IPv4 address (mapped, NAT64, 6to4) are judged by that one.
    """
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in _NAT64:
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public_address(inner)
    return address in _GLOBAL_UNICAST and address.is_global


def is_public_host(host: str) -> bool:
    """Say whether a host is a public name, or a literal address that is public."""
    if host.startswith("["):
        return "%" not in host and _is_public_literal(host[1:-1], IPv6Address)
    name = host.removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _is_public_literal(name, IPv4Address)
    return (
        len(name) <= 253
        and len(labels) > 1
        and all(_LABEL.fullmatch(label) for label in labels)
        and not any(f".{name}".endswith(f".{special}") for special in _SPECIAL_USE)
    )


def _is_public_literal(text: str, kind: type[IPv4Address | IPv6Address]) -> bool:
    try:
        return is_public_address(kind(text))
    except ValueError:
        return False
