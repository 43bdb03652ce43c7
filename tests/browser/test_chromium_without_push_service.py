"""Chromium without a push service, whose subscribe() stays pending."""

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest

from tests.browser.chromium import PROGRAM, Chromium
from tests.browser.client import call
from tests.browser.site import Site
from tests.browser.test_client import SHORT_TIMERS
from tests.support.postgresql import free_port

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")]


def test_a_subscribe_that_stays_pending_is_a_time_out(site: Site) -> None:
    closed = free_port()
    push_service = SimpleNamespace(
        origin=f"http://127.0.0.1:{closed}", mcs_origin=f"https://127.0.0.1:{closed}"
    )
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        chromium = Chromium(Path(profile), push_service)  # type: ignore[arg-type]  # its addresses are used only
        try:
            chromium.allow_notifications(site.url)
            chromium.open(f"{site.url}/")
            result = call(chromium, "subscribe", prepare=SHORT_TIMERS)
            assert result["code"] == "push-service"
            assert "in time" in result["message"]
            assert call(chromium, "current") is None
        finally:
            chromium.close()
