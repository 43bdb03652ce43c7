"""Checks of connections to push services, made as workers make them."""

import asyncio
import ssl
import time
from collections.abc import Sequence

from flask import current_app

from ..webpush.endpoints import Origin, origin_of
from ..webpush.transport import Transport
from .checks import Finding

PUSH_SERVICES = (
    "https://fcm.googleapis.com",
    "https://updates.push.services.mozilla.com",
    "https://web.push.apple.com",
    "https://wns2-par02p.notify.windows.com",
)


def check_connections() -> Sequence[Finding]:
    """Check names, routes, TLS and PUSH_PROXY to the known push services and PUSH_TRUSTED_PUSH_SERVICES."""
    settings = current_app.config
    return asyncio.run(_check_all(settings["PUSH_PROXY"], settings["PUSH_TRUSTED_PUSH_SERVICES"]))


async def _check_all(proxy: str | None, trusted: Sequence[str]) -> Sequence[Finding]:
    origins = [origin_of(url) for url in (*PUSH_SERVICES, *trusted)]
    async with Transport(proxy) as transport:
        checks = (_check(transport, origin, proxy, is_trusted=str(origin) in trusted) for origin in origins)
        return await asyncio.gather(*checks)


async def _check(transport: Transport, origin: Origin, proxy: str | None, *, is_trusted: bool) -> Finding:
    started_at = time.monotonic()
    try:
        await transport.connect(origin, only_public=not is_trusted)
    except ssl.SSLCertVerificationError as error:
        return Finding(
            False,
            f"{origin}: its certificate is not valid here: set SSL_CERT_FILE to a file of CA certificates, or"
            f" exempt it from the proxy that intercepts TLS ({error})",
        )
    except ConnectionError as error:
        to_do = f"allow connections to port {origin.port} in the firewall, or set PUSH_PROXY"
        if proxy:
            to_do = f"correct PUSH_PROXY, or allow connections to port {origin.port} in that proxy"
        return Finding(False, f"{origin}: {to_do} ({error})")
    except OSError as error:
        return Finding(False, f"{origin}: correct DNS ({error})")
    way = " through the proxy" if proxy else ""
    return Finding(True, f"{origin}: connected{way} after {time.monotonic() - started_at:.2f} s")
