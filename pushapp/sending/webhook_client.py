"""Post events to the operator's URL, signed (Standard Webhooks). Only what posts them imports this."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from flask import Flask
from flask.globals import app_ctx

from ..standard_webhooks import parse_secret, sign
from ..webpush.endpoints import origin_of
from ..webpush.transport import Transport
from .webhook import Post

MAX_CONNECTIONS = 4
SYNCHRONOUS_RETRY_DELAYS = (0.5, 2)  # seconds; on SQLite, where the caller waits
LOG_INTERVAL = 60  # seconds between log lines about failures

logger = logging.getLogger(__name__)


class WebhookError(Exception):
    """The receiver does not have the event: the status of its response, or the error of the connection."""


class WebhookClient:
    """Posts to an application's PUSH_WEBHOOK_URL over reused connections."""

    def __init__(self, app: Flask):
        self._url: str = app.config["PUSH_WEBHOOK_URL"]
        self._origin = origin_of(self._url)
        self._key = parse_secret(app.config["PUSH_WEBHOOK_SECRET"])
        self._transport = Transport(max_connections=MAX_CONNECTIONS)
        self._next_log_at = 0.0  # on the monotonic clock

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._transport.__aexit__(*exception)

    async def post(self, webhook_id: str, body: str) -> None:
        """Post an event.

        Raises WebhookError unless the response is a 2xx.
        """
        content, timestamp = body.encode(), int(time.time())
        headers = [
            "Content-Type: application/json",
            f"webhook-id: {webhook_id}",
            f"webhook-timestamp: {timestamp}",
            f"webhook-signature: {sign(self._key, webhook_id, timestamp, content)}",
            "Expect:",
        ]
        # Any host: the operator has chosen it.
        response = await self._transport.post(self._url, self._origin, headers, content, only_public=False)
        if not 200 <= response.status < 300:
            raise WebhookError(f"status {response.status}" if response.status else response.error)

    def log(self, error: WebhookError, *, is_last: bool) -> None:
        """Log a failed attempt; once a minute, unless it was the last one."""
        now = time.monotonic()
        if is_last:
            logger.error("PUSH_WEBHOOK_URL: %s: an event is lost", error)
        elif now >= self._next_log_at:
            self._next_log_at = now + LOG_INTERVAL
            logger.warning("PUSH_WEBHOOK_URL: %s: events are posted again later", error)


def post_now(posts: Sequence[Post]) -> None:
    """Post events, with few retries, before the return."""
    app = app_ctx.app
    with ThreadPoolExecutor(1) as thread:  # the caller may have an event loop of its own
        thread.submit(asyncio.run, _post_all(app, posts)).result()


async def _post_all(app: Flask, posts: Sequence[Post]) -> None:
    async with WebhookClient(app) as client:
        for post in posts:
            await _post_with_retries(client, post)


async def _post_with_retries(client: WebhookClient, post: Post) -> None:
    for delay in (*SYNCHRONOUS_RETRY_DELAYS, None):
        try:
            await client.post(*post)
            return
        except WebhookError as error:
            client.log(error, is_last=delay is None)
            if delay is not None:
                await asyncio.sleep(delay)
