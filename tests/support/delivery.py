"""Deliver messages with the client of push services."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pushapp.webpush.client import Client
from pushapp.webpush.message import Message, Urgency
from pushapp.webpush.resolver import Resolve, look_up
from pushapp.webpush.responses import Outcome
from pushapp.webpush.vapid import Signers, generate_key_pair
from tests.support.push_server import PushServer

KEY_PAIR = generate_key_pair()
SUBJECT = "mailto:webmaster@site.org"
MESSAGE = Message(title="Hello", body="Grüße 🎉", ttl=60, urgency=Urgency.HIGH, topic="greetings")


class Recipient(NamedTuple):
    """A stored subscription."""

    id: int
    endpoint: str
    keys_p256dh: str
    keys_auth: str
    vapid_key: str | None = None


def recipient(subscription: dict[str, Any], recipient_id: int = 1) -> Recipient:
    """Return the stored form of a subscription."""
    keys = subscription["keys"]
    return Recipient(recipient_id, subscription["endpoint"], keys["p256dh"], keys["auth"])


class Resolver:
    """Resolves every name to the next of the addresses; the last is repeated."""

    def __init__(self, *addresses: str):
        self.addresses = list(addresses)

    def __call__(self, name: str, port: int) -> list[str]:
        """Return the next address."""
        return [self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]]


def deliver(
    push_server: PushServer | None,
    subscriptions: Sequence[dict[str, Any]],
    *,
    message: Message = MESSAGE,
    resolver: Resolve = look_up,
    rounds: int = 1,
) -> list[Outcome]:
    """Deliver a message to subscriptions with one client, `rounds` times; return the outcomes."""

    async def run() -> list[Outcome]:
        trusted = [push_server.origin] if push_server else []
        signer = Signers([KEY_PAIR], SUBJECT)
        async with Client(signer.authorization, trusted, resolve=resolver) as client:
            outcomes: list[Outcome] = []
            for _ in range(rounds):
                outcomes += await push(client, subscriptions, message)
            return outcomes

    return asyncio.run(run())


async def push(
    client: Client, subscriptions: Iterable[dict[str, Any]], message: Message = MESSAGE
) -> list[Outcome]:
    """Push a message to subscriptions at once, and return the outcomes."""
    recipients = (recipient(body, number) for number, body in enumerate(subscriptions))
    pushes = (client.push(each, message.payload(), **options(message)) for each in recipients)
    return await asyncio.gather(*pushes)


def options(message: Message) -> dict[str, Any]:
    """Return a message's TTL, urgency and topic."""
    return {"ttl": message.ttl, "urgency": message.urgency, "topic": message.topic}


def results(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the results of outcomes."""
    return [outcome.result.value for outcome in outcomes]
