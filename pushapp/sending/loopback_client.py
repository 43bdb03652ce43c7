"""The client of tests: hands messages to fake browsers in this process, without a connection."""

from collections.abc import Callable, Mapping
from typing import Any

from ..webpush.client import Client, Recipient
from ..webpush.encryption import encrypt
from ..webpush.responses import SENT, Outcome


class LoopbackClient(Client):
    """Delivers to fake browsers by a call, and to all others over the network, or not if suppressed.

    `browsers` takes encrypted messages by endpoint. A suppressed message counts as sent.
    """

    def __init__(
        self,
        *arguments: Any,
        browsers: Mapping[str, Callable[[bytes], None]],
        is_suppressed: bool,
        **options: Any,
    ):
        super().__init__(*arguments, **options)
        self._browsers = browsers
        self._is_suppressed = is_suppressed

    async def push(self, recipient: Recipient, payload: bytes, **headers: Any) -> Outcome:
        """Deliver a payload as `Client.push` does."""
        if take := self._browsers.get(recipient.endpoint):
            take(encrypt(payload, recipient.keys_p256dh, recipient.keys_auth))
            return SENT
        return SENT if self._is_suppressed else await super().push(recipient, payload, **headers)
