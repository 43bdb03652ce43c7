"""Validation of endpoints and addresses, to protect against server-side request forgery (SSRF)."""

import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import NamedTuple

MAX_ENDPOINT_LENGTH = 2048

_BEGINNING = re.compile(r"(https?)://([^?#\\]+)(?:[?#].*)?")  # of a URL, to its path
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a last label like this makes the host an IPv4 address
_DEFAULT_PORTS = {"http": 80, "https": 443}

# Special-use domain names (RFC 6761 and its successors). Names that never resolve, like .example, cannot
# be connected to and need no rule.
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

    Raises ValueError, with a sentence for the user, if the URL is invalid or contains user info.
    """
    return _parse("/".join(url.split("/", 3)[:3]).lower())


@lru_cache(1024)
def _parse(beginning: str) -> Origin:
    match = _BEGINNING.fullmatch(beginning)
    if match is None:
        raise ValueError("Must be an https URL.")
    scheme, authority = match.groups()
    if "@" in authority:
        raise ValueError("Must not contain user info.")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ValueError("Must have a host, and a port only as a number.")
    port = int(parts[2] or _DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65535:
        raise ValueError("Must have a port from 1 to 65535.")
    return Origin(scheme, parts[1], port)


def parse_origin(text: object) -> str:
    """Return an origin normalized: lower case, without the default port.

    Raises ValueError if the text is not an origin.
    """
    if isinstance(text, str) and text.count("/") == 2:
        try:
            return str(origin_of(text))
        except ValueError:
            pass
    raise ValueError(f"{text!r} is not an origin: scheme, host and port alone, such as https://example.com")


def check_endpoint(endpoint: str, trusted: Collection[str] = ()) -> Origin:
    """Check that a public push service may have issued an endpoint, and return its origin.

    `trusted` holds origins that are exempt from the rules for hosts, http included.
    Raises ValueError with a sentence that says what is wrong.
    """
    if len(endpoint) > MAX_ENDPOINT_LENGTH:
        raise ValueError(f"Must be at most {MAX_ENDPOINT_LENGTH} characters long.")
    if not (endpoint.isascii() and endpoint.isprintable()) or " " in endpoint:
        raise ValueError("Must be printable ASCII.")
    origin = origin_of(endpoint)
    if str(origin) not in trusted:
        if origin.scheme != "https":
            raise ValueError("Must be an https URL.")
        if not is_public_host(origin.host):
            raise ValueError("Must have a public host.")
    return origin


def is_public_address(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is globally routable unicast.

    IPv6 addresses with an embedded IPv4 address (mapped, NAT64, 6to4) are checked by that address.
    """
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    embedded = address.ipv4_mapped or address.sixtofour
    if embedded is None and address in _NAT64:
        embedded = IPv4Address(int(address) & 0xFFFFFFFF)
    if embedded is not None:
        return is_public_address(embedded)
    return address in _GLOBAL_UNICAST and address.is_global


@lru_cache(1024)
def is_public_host(host: str) -> bool:
    """Return whether a host is a public name, or a literal address that is public."""
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
