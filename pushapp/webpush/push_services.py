"""The push services of the browsers' vendors, by their hosts."""

from collections.abc import Collection

from .endpoints import origin_of

OTHER = "other"

# Each host or domain, and the browser that it serves alone; Chromium's browsers share one.
BROWSERS: dict[str, str | None] = {
    "fcm.googleapis.com": None,
    "push.services.mozilla.com": "Firefox",
    "push.apple.com": "Safari",
    "notify.windows.com": "Edge",
}


def hosts_of(origins: Collection[str]) -> frozenset[str]:
    """Return the hosts of trusted origins."""
    return frozenset(origin_of(origin).host for origin in origins)


def push_service_of(host: str, trusted_hosts: Collection[str] = ()) -> str:
    """Return the push service of a host: a known one, a trusted host, or OTHER.

    So there are few, whatever hosts endpoints name: they are user input.
    """
    if host in trusted_hosts:
        return host
    known = (name for name in BROWSERS if f".{host}".endswith(f".{name}"))
    return next(known, OTHER)
