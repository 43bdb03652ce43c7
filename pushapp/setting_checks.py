"""Checks of settings: each returns the value to use, or raises ValueError with what the setting must be."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from .standard_webhooks import check_url, parse_secret
from .webpush.endpoints import parse_origin

CHANNEL_NAME = re.compile("[a-z0-9._-]{1,64}")
PROXY = re.compile("(?:https?|socks5h)://[!-~]+", re.IGNORECASE)
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


def boolean(value: object) -> bool:
    """Accept true, false, 1 and 0, also as texts."""
    booleans = {"true": True, "1": True, "false": False, "0": False}
    if (text_value := str(value).lower()) not in booleans:
        raise ValueError("must be true or false")
    return booleans[text_value]


def optional(check: Callable[[object], object]) -> Callable[[object], object]:
    """Return a check that accepts null, and what another check accepts."""
    return lambda value: None if value is None else check(value)


def text(value: object) -> str:
    """Accept a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text that is not empty")
    return value


def optional_text(value: object) -> str | None:
    """Accept a text, or nothing."""
    return None if value in (None, False, "") else text(value)


def optional_secret(value: object) -> str | bytes | None:
    """Accept a text or bytes, or nothing."""
    if not value:
        return None
    return value if isinstance(value, bytes) else text(value)


def texts(value: object) -> list[str]:
    """Accept a list of texts that are not empty."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise ValueError("""must be a list of texts, such as '["a long random text"]'""")
    return list(value)


def secrets(value: Any) -> list[str | bytes] | None:
    """Accept a list of texts or bytes that are not empty, or nothing."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(
        isinstance(secret, str | bytes) and secret for secret in value
    ):
        raise ValueError("""must be a list of secrets, such as '["the old secret"]'""")
    return list(value)


def channels(value: object) -> list[str]:
    """Accept a list of channel names."""
    if not isinstance(value, list | tuple) or not all(
        isinstance(name, str) and CHANNEL_NAME.fullmatch(name) for name in value
    ):
        raise ValueError(
            """must be a list of names of 1 to 64 of a-z, 0-9, ".", "_" and "-", such as '["news"]'"""
        )
    return list(dict.fromkeys(value))


def origins(value: object) -> list[str]:
    """Accept a list of origins, and return them normalized."""
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError("""must be a list of origins, such as '["https://example.com"]'""")
    try:
        return [parse_origin(origin) for origin in value]
    except ValueError as error:
        raise ValueError(f"must be a list of origins: {error}") from None


def site_url(value: object) -> str | None:
    """Accept an https origin, http on this machine, or nothing; return it normalized."""
    if value is None:
        return None
    try:
        origin = parse_origin(value)
        parts = urlsplit(origin)
        if parts.scheme != "https" and parts.hostname not in LOCAL_HOSTS:
            raise ValueError
    except ValueError:
        raise ValueError("must be your site's origin, such as https://example.com") from None
    return origin


def proxy(value: object) -> str | None:
    """Accept a proxy's http, https or socks5h URL, also with a name and password, or nothing."""
    if value is None:
        return None
    try:
        if not isinstance(value, str) or not PROXY.fullmatch(value):
            raise ValueError
        parts = urlsplit(value)
        if not parts.hostname or parts.port == 0 or parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError
    except ValueError:  # without the value, which may hold a password
        raise ValueError(
            "must be the http://, https:// or socks5h:// URL of a proxy, such as http://proxy.example.com:3128"
        ) from None
    return value


def integer(minimum: int) -> Callable[[object], int]:
    """Accept integers of at least `minimum`."""

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"must be an integer of at least {minimum}")
        return value

    return check


def prepare_threshold(value: object) -> int | None:
    """Accept an integer of at least 0, or None for never."""
    try:
        return None if value is None else integer(0)(value)
    except ValueError as error:
        raise ValueError(f"{error}, or null for never") from None


def same_site(value: object) -> str | None:
    """Accept Lax, Strict and None, in any case, or nothing."""
    if value is not None and str(value).title() not in ("Lax", "Strict", "None"):
        raise ValueError("must be Lax, Strict or None")
    return None if value is None else str(value).title()


def lifetime(value: Any) -> timedelta:
    """Accept a timedelta, or seconds."""
    if isinstance(value, timedelta):
        return value
    try:
        if isinstance(value, bool) or value < 0:
            raise ValueError
        return timedelta(seconds=value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a number of seconds, or a timedelta") from None


def url_prefix(value: object) -> str | None:
    """Accept a path, or nothing."""
    if value is not None and not (isinstance(value, str) and value.startswith("/")):
        raise ValueError("must be a path that begins with /")
    return value


def webhook_url(value: object) -> object:
    """Accept an http or https URL, or nothing."""
    return None if value is None else check_url(value)


def webhook_secret(value: object) -> object:
    """Accept a secret as Standard Webhooks writes it, or nothing."""
    if value is not None:
        parse_secret(value)
    return value


def unchecked(value: object) -> object:
    """Accept any value."""
    return value
